# One image for the operator and the transport tier, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) .
# Everything that is installed is pinned by its hash, and comes as a wheel, save for gssapi (Kerberos), which has none:
# compiling its 30 files takes tens of minutes under emulation, so better use a builder of the platform's own.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Dependencies first: their layer is made anew only with the lock files.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev libkrb5-dev
COPY requirements.lock requirements-image.lock requirements-kerberos.lock ./
# Of what developers have, the tools to build with; --require-hashes fails should they come to need more.
RUN awk '/^[a-z]/ {keep = /^(cython|hatchling|packaging|pathspec|pluggy|setuptools|tomlkit|trove-classifiers)==/} keep' requirements.lock >build.lock \
 && python -m venv /build \
 && /build/bin/pip install --require-hashes --only-binary :all: --requirement build.lock \
 && python -m venv --without-pip /opt/postroad \
 && /build/bin/pip --python /opt/postroad/bin/python install --no-compile \
        --require-hashes --only-binary :all: --requirement requirements-image.lock \
 && /build/bin/pip wheel --no-deps --no-build-isolation --require-hashes --wheel-dir /wheels \
        --requirement requirements-kerberos.lock \
 && /build/bin/pip --python /opt/postroad/bin/python install --no-compile --no-index /wheels/*.whl
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY transport transport
# Byte code is made here, for the root of a running container is read-only; "unchecked", for its sources never change.
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/pip --python /opt/postroad/bin/python install --no-compile --no-deps --no-index /wheels/postroad-*.whl \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/postroad/lib \
 && /opt/postroad/bin/postroad --version

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="Postroad" \
      org.opencontainers.image.description="A clustered mail transport tier: the operator and the transport pods" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update && apt-get install --yes --no-install-recommends libgssapi-krb5-2 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# The chart runs pods as this user; the state directory is for those who start the image without a volume.
RUN groupadd --gid 10001 postroad \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/postroad --shell /usr/sbin/nologin postroad \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/postroad
COPY --from=build /opt/postroad /opt/postroad
# With POSTROAD_STATE_DIR `kubectl exec POD -- postroad queue list` finds the tier of its pod.
ENV PATH=/opt/postroad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 POSTROAD_STATE_DIR=/var/lib/postroad
USER 10001:10001
WORKDIR /var/lib/postroad
EXPOSE 2525 2587 2465 9925 9926
ENTRYPOINT ["postroad"]
CMD ["--help"]
