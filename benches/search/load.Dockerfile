ARG BASE
FROM ${BASE}
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends curl python3 wrk \
    && rm -rf /var/lib/apt/lists/*
COPY load.lua visible.py /
CMD ["sleep", "infinity"]
