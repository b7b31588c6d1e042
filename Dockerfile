# The command line on CPUs:
#   docker build --tag cryoden .
#   docker run --rm --volume "$PWD:/data" cryoden halves movies/*.mrcs --output halves
FROM python:3.11-slim

COPY . /opt/cryoden
ARG TORCH="torch==2.13.0"
RUN python -m pip install --no-cache-dir $TORCH
RUN python -m pip install --no-cache-dir "/opt/cryoden[torch]"

WORKDIR /data
ENTRYPOINT ["cryoden"]
CMD ["--help"]
