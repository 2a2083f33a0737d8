# One image for the operator and the transport tier, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) .
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.lock requirements-image.lock ./
RUN python -m venv /build \
 && /build/bin/pip install --require-hashes --requirement requirements.lock \
 && python -m venv /opt/postroad \
 && /opt/postroad/bin/pip install --require-hashes --only-binary :all: --requirement requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY transport transport
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/postroad/bin/pip install --no-deps --no-index /wheels/*.whl

FROM python:${PYTHON}
RUN groupadd --gid 10001 postroad \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/postroad --shell /usr/sbin/nologin postroad \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/postroad
COPY --from=build /opt/postroad /opt/postroad
ENV PATH=/opt/postroad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/postroad
VOLUME /var/lib/postroad
ENTRYPOINT ["postroad"]
CMD ["--help"]
