# docker build -t padim_lit .
# docker run -p 127.0.0.1:8000:8000 -v "$PWD/outputs/DAY/TIME:/work:ro" padim_lit
FROM python:3.11-slim

WORKDIR /opt/padim_lit
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY conf conf
COPY padim_lit padim_lit
# https://download.pytorch.org/whl/cpu: without NVIDIA's packages.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -c constraints.txt ".[serve]" \
    && useradd --create-home --uid 1000 padim

# Nothing here needs more rights than to read the model and write its own folder.
USER 1000
WORKDIR /work
VOLUME /work
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["padim-lit"]
CMD ["mode=serve", "ckpt=/work/model.ckpt", "host=0.0.0.0", "trainer=auto", "hydra.run.dir=/tmp/served"]
