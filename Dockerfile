# The workflow with its environment; docs/containers.md says how it is run.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/bias-spillover
# Requirements first: a change of code does not install them anew.
COPY Makefile requirements.txt ./
RUN make env && rm -rf /root/.cache
COPY . .
# A copy newer than the environment must not have it made again, by a user who cannot.
RUN touch .venv/.installed \
    && install --directory --owner=1000 --group=1000 /study

# The user's folder is mounted here. What caches keep (models of a hub, too) lies in it as well,
# because links in resources/ point there. Whoever runs this has no home in the image, and no name
# either, which Snakemake and torch ask for.
WORKDIR /study
ENV HOME=/study/.home \
    USER=study \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
ENTRYPOINT ["make", "--makefile=/opt/bias-spillover/Makefile"]
CMD ["study"]
