# The images of EdgeModel: targets `operator`, `compressor`, `agent`. Commands for docker, podman and buildah: docs/images.md.
#
# Every command runs on the machine that builds, also for another architecture: pip fetches the other one's wheels, and the rest is
# copying. So images for linux/arm64 need no emulation.

# Any Debian or Ubuntu with Python 3.11 or newer (with venv).
ARG BASE=python:3.12-slim-bookworm
# The same for the machine that builds: another name only if BASE is of one other architecture.
ARG BUILD_BASE=${BASE}

FROM ${BASE} AS base
# No stage without a step: buildah 1.28 would leave a container behind.
USER root

FROM --platform=${BUILDPLATFORM} ${BUILD_BASE} AS tools
USER root
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv \
 && for site in /opt/venv/lib/python3*/site-packages; do echo /opt/edgemodel > "${site}/edgemodel.pth"; done
COPY tools/image_parts.py /opt/image_parts.py

# The base without its package index, pip, documentation and tests; Python's own modules compiled, as nobody can write them later.
FROM tools AS root
COPY --from=base / /root-of-target
RUN python3 /opt/image_parts.py strip-base /root-of-target \
 && find /root-of-target/usr/lib /root-of-target/usr/local/lib -maxdepth 1 -name 'python3.*' -type d -exec \
      python3 -m compileall -q -f --invalidation-mode unchecked-hash -s /root-of-target -p / '{}' ';' \
 && install -d -o 65532 -g 65532 /root-of-target/work /root-of-target/var/lib/edgemodel

# A role's part of the lock file. Copied from here by content, so that other changes of these files install nothing anew.
FROM tools AS lock
WORKDIR /lock
COPY pyproject.toml requirements.lock ./
RUN python3 /opt/image_parts.py requirements .

FROM tools AS operator-packages
ARG TARGETARCH
COPY --from=lock /lock/operator-${TARGETARCH}.txt /lock/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 /opt/image_parts.py install operator "${TARGETARCH}" /opt/venv/lib/python3*/site-packages

FROM tools AS compressor-packages
ARG TARGETARCH
COPY --from=lock /lock/compressor-${TARGETARCH}.txt /lock/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 /opt/image_parts.py install compressor "${TARGETARCH}" /opt/venv/lib/python3*/site-packages

FROM tools AS agent-packages
ARG TARGETARCH
COPY --from=lock /lock/agent-${TARGETARCH}.txt /lock/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 /opt/image_parts.py install agent "${TARGETARCH}" /opt/venv/lib/python3*/site-packages

# Our own packages of a role, a folder on Python's path.
FROM tools AS code
COPY --from=lock /lock/*.dist-info /opt/edgemodel/edgemodel.dist-info/
COPY LICENSE /opt/edgemodel/
COPY api/edgemodel_api /opt/edgemodel/edgemodel_api
COPY oci/edgemodel_oci /opt/edgemodel/edgemodel_oci

FROM code AS operator-code
COPY operator/edgemodel_operator /opt/edgemodel/edgemodel_operator
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/edgemodel

FROM code AS compressor-code
COPY compressor/edgemodel_compressor /opt/edgemodel/edgemodel_compressor
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/edgemodel

FROM code AS agent-code
COPY agent/edgemodel_agent /opt/edgemodel/edgemodel_agent
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/edgemodel

FROM scratch AS runtime
COPY --from=root /root-of-target /
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1
USER 65532:65532

FROM runtime AS operator
COPY --from=operator-packages /opt/venv /opt/venv
COPY --from=operator-code /opt/edgemodel /opt/edgemodel
ENTRYPOINT ["python", "-m", "edgemodel_operator.main"]

FROM runtime AS compressor
COPY --from=compressor-packages /opt/venv /opt/venv
COPY --from=compressor-code /opt/edgemodel /opt/edgemodel
WORKDIR /work
ENTRYPOINT ["python", "-m", "edgemodel_compressor"]

FROM runtime AS agent
COPY --from=agent-packages /opt/venv /opt/venv
COPY --from=agent-code /opt/edgemodel /opt/edgemodel
ENTRYPOINT ["python", "-m", "edgemodel_agent"]
