{{- /* The standby: a static pod that waits on each node and serves what the store holds while no agent works there.
Both take (dict "top" $ "name" DaemonSet's name "image" image "resources" …). */ -}}

{{- define "edgemodel.standby.manifest" -}}
{{- $a := .top.Values.agent -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ .name }}-standby
  namespace: {{ .top.Release.Namespace }}
  labels:
    {{- include "edgemodel.selector" (list .top "standby") | nindent 4 }}
spec:
  hostNetwork: true
  enableServiceLinks: false
  automountServiceAccountToken: false
  priorityClassName: system-node-critical
  # It serves until those that serve in its stead do.
  terminationGracePeriodSeconds: {{ $a.terminationGracePeriodSeconds }}
  tolerations: [{operator: Exists}]
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: standby
    image: {{ include "edgemodel.image" (list .top .image) }}
    # The node may boot without a link, so never Always.
    imagePullPolicy: IfNotPresent
    args: [standby, --root, /var/lib/edgemodel]
    {{- with include "edgemodel.plainHttp" .top }}
    env:
    - {name: EDGEMODEL_PLAIN_HTTP_REGISTRIES, value: {{ . | quote }}}
    {{- end }}
    resources:
      requests: {cpu: 10m, memory: 32Mi}
      {{- with .resources.limits }}
      limits: {{- toYaml . | nindent 8 }}
      {{- end }}
    securityContext:
      {{- include "edgemodel.containerSecurity" .top | nindent 6 }}
      runAsUser: 65532
      runAsGroup: 65532
    volumeMounts:
    - {name: store, mountPath: /var/lib/edgemodel}
    - {name: tmp, mountPath: /tmp}
  volumes:
  - name: store
    hostPath: {path: {{ $a.store }}, type: DirectoryOrCreate}
  - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
{{- end -}}

{{- /* Beside the agent: lays the manifest down, and removes it when the agent asks for it. */ -}}
{{- define "edgemodel.standby.keeper" -}}
- name: keep-standby
  image: {{ include "edgemodel.image" (list .top .image) }}
  imagePullPolicy: {{ .top.Values.agent.image.pullPolicy }}
  command: [sh, /standby/keep.sh]
  env:
  - {name: MANIFEST, value: edgemodel-standby.yaml}
  resources:
    requests: {cpu: 1m, memory: 4Mi}
    limits: {memory: 32Mi}
  securityContext:
    runAsUser: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL], add: [DAC_OVERRIDE]}
  volumeMounts:
  - {name: store, mountPath: /store}
  - {name: manifests, mountPath: /manifests}
  - {name: standby, mountPath: /standby, readOnly: true}
{{- end -}}

{{- define "edgemodel.standby.volumes" -}}
- name: manifests
  hostPath: {path: {{ .top.Values.agent.standby.manifestDir }}, type: DirectoryOrCreate}
- name: standby
  configMap: {name: {{ .name }}-standby}
{{- end -}}

{{- define "edgemodel.standby.configmap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}-standby
  namespace: {{ .top.Release.Namespace }}
  labels: {{- include "edgemodel.labels" (list .top "agent") | nindent 4 }}
data:
  keep.sh: |
    {{- .top.Files.Get "files/standby/keep.sh" | nindent 4 }}
  pod.yaml: |
    {{- include "edgemodel.standby.manifest" . | nindent 4 }}
{{- end -}}
