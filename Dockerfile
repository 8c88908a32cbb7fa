FROM python:3.11-slim-bookworm AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++
# pip's own settings choose the index and with it the build of torch (CPU, CUDA)
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# extras of the package, as in torch; which torch that is then
ARG EXTRAS
ARG TORCH
WORKDIR /src
# The dependencies alone, by a package without content: a change of the code does not install them again.
# Tests, headers and build files of the dependencies stay behind; torch does not start without its torch_shm_manager.
COPY pyproject.toml ./
RUN mkdir service models && touch README.md LICENSE \
 && echo "${TORCH:-torch==2.13.0}" >/constraints.txt \
 && python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --constraint /constraints.txt \
    --config-settings wheel.cmake=false ".${EXTRAS:+[$EXTRAS]}" \
 && pip --python /opt/venv/bin/python uninstall --yes lstm-serve \
 && cd /opt/venv/lib/python3.11/site-packages \
 && if [ -d torch ]; then rm -rf torch/include torch/share/cmake torch/test \
 && find torch/bin -type f ! -name torch_shm_manager -delete; fi \
 && find . -type d -name tests -prune -exec rm -rf {} +
COPY . .
# the package, compiled: /app is its wheel; bytecode is made here, a read-only container cannot keep any
RUN pip --python /opt/venv/bin/python install --no-deps --target /app . \
 && chmod -R a+rX /app && mv /app/models/store /store

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="lstm-serve" \
      org.opencontainers.image.description="A REST inference microservice for recurrent sequence classifiers" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    LSTMSERVE_HOST=0.0.0.0 \
    LSTMSERVE_PORT=8000
COPY --from=build /opt/venv /opt/venv
COPY --from=build /store models/store
COPY --from=build /app ./
# the official image has no bytecode of the standard library; these imports write what the service uses of it
RUN python -c "import service.__main__, service.serve, service.engine.native" \
 && if [ -d /opt/venv/lib/python3.11/site-packages/torch ]; then python -c "import service.engine.packed"; fi
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client and not urllib: a proxy in the environment must not be asked
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, sys; \
server = http.client.HTTPConnection('127.0.0.1', int(os.environ['LSTMSERVE_PORT']), timeout=4); \
server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
