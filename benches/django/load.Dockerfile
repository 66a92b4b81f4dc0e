ARG BASE
FROM ${BASE}
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends curl wrk \
    && rm -rf /var/lib/apt/lists/*
COPY load.lua vegeta /
CMD ["sleep", "infinity"]
