# dcgrid with Wan's models, Ray, Slurm and object stores on a CUDA machine: docs/install.md#a-container
#   docker build -t dcgrid .
#   docker run --rm --gpus all -v dcgrid-cache:/cache -v "$PWD:/work" dcgrid edit input.mp4 -e rain
# torch's wheels bring CUDA's libraries; the image adds what lets a container see the driver.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu keeps only the newest version of a package, so a pinned one ends the build some day.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/dcgrid/bin:$PATH
RUN python3 -m venv /opt/dcgrid \
    && pip install --no-cache-dir torch==2.13.0

# The layer above is gigabytes and stays as long as torch does; this one changes with the code.
COPY pyproject.toml README.md LICENSE /src/
COPY recipes /src/recipes
COPY src /src/src
# A login shell, as Ray's operator starts, has a PATH of its own.
RUN pip install --no-cache-dir "/src[batch,wan]" \
    && ln -s /opt/dcgrid/bin/dcgrid /opt/dcgrid/bin/ray /usr/local/bin/

# Results belong to this user: for those of your own, docker run --user "$(id -u)"; /cache is open to all.
RUN useradd --uid 10001 --create-home dcgrid \
    && install -d -m 1777 /cache /work
USER 10001
ENV DCGRID_HOME=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["dcgrid"]
CMD ["--help"]
