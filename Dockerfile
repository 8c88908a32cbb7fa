FROM python:3.11-slim-bookworm AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++
# pip's own settings choose the index and with it the build of torch (CPU, CUDA)
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# extras of the package, as in torch; which torch that is then
ARG EXTRAS
ARG TORCH
WORKDIR /src
# The dependencies alone: a change of the code does not install them again. What the lock files pin must have its digest.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/build && python -m venv --without-pip /opt/venv \
 && pip --python /opt/build/bin/python install --require-hashes --requirement requirements-build.lock \
 && pip --python /opt/venv/bin/python install --require-hashes --requirement requirements.lock
# Extras, by a package without content, in the versions that were tested; torch, whose builds are many, has no digest.
# Its headers and build files stay behind; it does not start without its torch_shm_manager.
COPY pyproject.toml requirements-dev.lock ./
RUN if [ -n "$EXTRAS" ]; then mkdir service models && touch README.md LICENSE \
 && (echo "${TORCH:-torch==2.13.0}"; sed '/--hash/d; s/ \\$//' requirements-dev.lock) >/constraints.txt \
 && pip --python /opt/build/bin/python wheel --no-build-isolation --no-deps --config-settings wheel.cmake=false \
    --wheel-dir /extras . \
 && pip --python /opt/venv/bin/python install --constraint /constraints.txt "$(echo /extras/*.whl)[$EXTRAS]" \
 && pip --python /opt/venv/bin/python uninstall --yes lstm-serve; fi \
 && cd /opt/venv/lib/python3.11/site-packages \
 && if [ -d torch ]; then rm -rf torch/include torch/share/cmake torch/test \
 && find torch/bin -type f ! -name torch_shm_manager -delete; fi \
 && find . -type d -name tests -prune -exec rm -rf {} +
COPY . .
# the package, compiled: /app is its wheel; bytecode is made here, a read-only container cannot keep any
RUN pip --python /opt/build/bin/python wheel --no-build-isolation --no-deps --wheel-dir /wheel . \
 && pip --python /opt/venv/bin/python install --no-deps --target /app /wheel/*.whl \
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
# http.client and not urllib: a proxy in the environment must not be asked. A certificate is for another name than this.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, ssl, sys; \
address = '127.0.0.1', int(os.environ['LSTMSERVE_PORT']); \
server = http.client.HTTPSConnection(*address, timeout=4, context=ssl._create_unverified_context()) \
if os.environ.get('LSTMSERVE_TLS_CERT_FILE') else http.client.HTTPConnection(*address, timeout=4); \
server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
