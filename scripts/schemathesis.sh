#!/usr/bin/env bash
# scripts/schemathesis.sh URL [OPTION...]: calls every operation of a running shop's OpenAPI document with generated
# requests, good and bad ones. Fails for an answer with 5xx and for one that the document does not describe. OPTIONs are
# those of `schemathesis run`. The program lies in the user's cache, pinned.
set -euo pipefail

version=4.32.5
base=${1:?expected the URL of a shop}
shift
venv=${XDG_CACHE_HOME:-$HOME/.cache}/provisioner/schemathesis-$version
if ! [ -x "$venv/bin/schemathesis" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" || {
        rm -rf "$venv"
        exit 1
    }
fi
# In a directory of its own: it keeps what it found in the one where it runs.
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance
checks=$checks,missing_required_header,unsupported_method
"$venv/bin/schemathesis" run "$base/openapi.json" --checks "$checks" --phases examples,coverage,fuzzing \
    --max-examples "${EXAMPLES:-30}" --seed 7 --continue-on-failure --suppress-health-check all --warnings off "$@"
