# One image for everything: the receiver (`ahi-storescp serve`) and, by another entry point, every Lambda function.
# Build it for the processor that cpuArchitecture names; dependencies are locked with their hashes.

# The digest decides, for both processors; the tag is for people.
# To move on, take both from: docker buildx imagetools inspect public.ecr.aws/docker/library/python:3.11-slim-bookworm
ARG PYTHON=public.ecr.aws/docker/library/python:3.11.17-slim-bookworm@sha256:0a310eeecf4e1f5a0743f9a6520c90c88d089c903ca5fd283f501e3a805f5f89

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /build
COPY requirements/image.txt requirements/image.txt
RUN python -m venv /opt/storescp \
  && /opt/storescp/bin/python -m pip install --require-hashes --only-binary :all: --requirement requirements/image.txt
COPY pyproject.toml LICENSE ./
COPY domain domain
COPY services services
COPY adapters adapters
# The tools that build the package are locked too, and do not stay.
RUN /opt/storescp/bin/python -m pip install --no-build-isolation --no-deps . \
  && /opt/storescp/bin/python -m pip uninstall --yes \
    editables hatchling packaging pathspec pluggy tomlkit trove-classifiers \
  && /opt/storescp/bin/python -m compileall -q /opt/storescp

FROM ${PYTHON}
ENV PATH=/opt/storescp/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid 10001 storescp \
  && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin storescp \
  && install --directory --owner storescp --group storescp --mode 0750 /var/lib/storescp
COPY --from=build /opt/storescp /opt/storescp
# The one folder that is written to; Fargate gives the volume there the owner that the image says.
VOLUME ["/var/lib/storescp"]
USER 10001:10001
WORKDIR /var/lib/storescp
EXPOSE 11112 2762 8080
ENTRYPOINT ["ahi-storescp"]
CMD ["serve"]
