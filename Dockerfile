# syntax=docker/dockerfile:1
# The images of zenzefi: `docker build --target web .` and `docker build --target worker .`
#
# Tags are pinned to a release, digests are not: a tag of the base image stays on Python 3.13 and gets Debian's security
# fixes at each build; what was built is deployed by its own digest.
# `make check-deploy CHECK=container` runs each step of this file in a bare Debian tree, and then the images' commands.

# What all stages stand on.
FROM python:3.13-slim-trixie AS base
# A pipe fails with its first command that does.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]


# Everything becomes a wheel here, with build tools that are hashed as well; none of them reaches an image.
FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_INPUT=1
WORKDIR /build
RUN python -m venv tools
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=deploy/docker/build.lock,target=build.lock \
    tools/bin/pip install --require-hashes --no-deps --requirement build.lock
# Without isolation, or pip would fetch build tools that no lock file names.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements.lock,target=requirements.lock \
    --mount=type=bind,source=deploy/docker/otel.lock,target=otel.lock \
    tools/bin/pip wheel --require-hashes --no-deps --no-build-isolation --wheel-dir wheels \
        --requirement requirements.lock --requirement otel.lock
COPY pyproject.toml README.md LICENSE source/
COPY migrations source/migrations
COPY workers source/workers
COPY zenzefi source/zenzefi
RUN tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir wheels ./source
# Its own environment has no pip. Bytecode that is never compared with its source needs no time stamps, and is the same in
# every build. Then: whether all that anything asks for is there.
RUN python -m venv --without-pip /opt/zenzefi \
    && tools/bin/pip --python /opt/zenzefi/bin/python install --no-index --no-deps --no-compile wheels/*.whl \
    && /opt/zenzefi/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/zenzefi/lib \
    && tools/bin/pip --python /opt/zenzefi/bin/python check
COPY deploy/docker/healthcheck.py /opt/zenzefi/libexec/healthcheck.py


# What web and worker have in common.
FROM base AS runtime
# The init ends commands that do not listen to signals, and buries what a killed process leaves behind.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
# A number, so that Kubernetes can see that it is not root's; nothing in the image belongs to it.
RUN groupadd --gid 10001 zenzefi \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin zenzefi
COPY --from=build /opt/zenzefi /opt/zenzefi
ENV PATH=/opt/zenzefi/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    INTERNAL_HOST=0.0.0.0
LABEL org.opencontainers.image.title="zenzefi" \
      org.opencontainers.image.description="A prepaid, time-boxed HTTP access gateway" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/zenzefi/zenzefi"
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "zenzefi"]


# Background jobs. The backups' pg_dump has to be of the server's major version.
FROM runtime AS worker
ARG POSTGRES_MAJOR=18
# Debian's own archive vouches for the key of PostgreSQL's: it comes in this package.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-common \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/pgdg.sources /etc/apt/sources.list.d/pgdg.sources
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "postgresql-client-${POSTGRES_MAJOR}" \
    && rm -rf /var/lib/apt/lists/*
# The programs themselves, not Debian's wrapper, which looks for clusters on this machine.
ENV POSTGRES_BIN=/usr/lib/postgresql/${POSTGRES_MAJOR}/bin
USER 10001:10001
EXPOSE 8002
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-I", "/opt/zenzefi/libexec/healthcheck.py", "worker"]
CMD ["worker"]


# The web processes, and every other command.
FROM runtime AS web
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-I", "/opt/zenzefi/libexec/healthcheck.py", "web"]
CMD ["serve"]
