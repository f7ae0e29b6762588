{{- define "edgemodel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects pods: never changes. Takes (list $ "component"). */}}
{{- define "edgemodel.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ $top.Chart.Name }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Takes (list $ "component"). */}}
{{- define "edgemodel.labels" -}}
{{- $top := index . 0 -}}
{{ include "edgemodel.selector" . }}
app.kubernetes.io/part-of: edgemodel
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name ($top.Chart.Version | replace "+" "_") }}
{{- with $top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes (list $ image). */}}
{{- define "edgemodel.image" -}}
{{- $top := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $top.Values.imageRegistry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default $top.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The registry's host and port, the same for operator, Jobs and agents (which use the cluster's DNS too). */}}
{{- define "edgemodel.registryHost" -}}
{{- printf "%s-registry.%s.svc:%v" (include "edgemodel.fullname" .) .Release.Namespace .Values.registry.port -}}
{{- end -}}

{{- define "edgemodel.output" -}}
{{- if .Values.registry.enabled -}}
{{- if .Values.output -}}
{{- fail "output is for a registry of your own: set registry.enabled=false with it, or leave output empty" -}}
{{- end -}}
oci://{{ include "edgemodel.registryHost" . }}/edgemodel
{{- else -}}
{{- required "registry.enabled is false, so artifacts need another place: set output=oci://host/repository" .Values.output -}}
{{- end -}}
{{- end -}}

{{- define "edgemodel.plainHttp" -}}
{{- $hosts := .Values.plainHttpRegistries -}}
{{- if .Values.registry.enabled }}{{ $hosts = prepend $hosts (include "edgemodel.registryHost" .) }}{{ end -}}
{{- join "," $hosts -}}
{{- end -}}

{{/* Takes (list $ port annotations). */}}
{{- define "edgemodel.podAnnotations" -}}
{{- $top := index . 0 -}}
{{- if $top.Values.monitoring.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ index . 1 | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "edgemodel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "edgemodel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Placement of a pod. Takes the values of its part. */}}
{{- define "edgemodel.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
