#!/usr/bin/env bash
# scripts/check-monitoring.sh [IMAGE]: checks monitoring/ with promtool, amtool and the blackbox exporter of this machine,
# or with those of an image, such as the one that a stack runs, and with its own tests the server that shows alerts.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
	printf 'check-monitoring: %s\n' "$*" >&2
	exit 1
}

cp -r monitoring/rules monitoring/tests "$work"

# Each name of a threshold is recorded, watched by ThresholdMissing, and used.
names() { grep -ohE "$1" "${@:2}" | grep -oE 'threshold:[a-z0-9_]+' | sort -u; }
recorded=$(names 'record: threshold:[a-z0-9_]+' monitoring/rules/thresholds.yml)
watched=$(names 'absent\(threshold:[a-z0-9_]+' monitoring/rules/meta.yml)
used=$(names 'group_left\(\) threshold:[a-z0-9_]+' monitoring/rules/*.yml)
for other in "watched by ThresholdMissing:$watched" "used by rules:$used"; do
	differ=$(diff <(printf '%s\n' "$recorded") <(printf '%s\n' "${other#*:}")) ||
		fail "what thresholds.yml records (<) and what is ${other%%:*} (>) are not the same:"$'\n'"$differ"
done

# Each alert has a test in which it fires; all but Watchdog, which always does, one in which it is silent.
grep -ohE 'alert: .+' monitoring/rules/*.yml | cut -d' ' -f2 | sort | uniq -d | grep . && fail 'alerts share a name'
while read -r alert; do
	tests=$(grep -hA1 -E "alertname: $alert\$" monitoring/tests/*.yml || true)
	grep -qE 'exp_alerts:$' <<<"$tests" || fail "no test lets $alert fire"
	[[ $alert == Watchdog ]] || grep -q 'exp_alerts: \[\]' <<<"$tests" || fail "no test wants $alert silent"
done < <(grep -ohE 'alert: .+' monitoring/rules/*.yml | cut -d' ' -f2)

# Each alert says what to do: its annotation names a heading of the page of its file, and each heading there is an alert.
for rules in monitoring/rules/*.yml; do
	page=docs/runbooks/$(basename "$rules" .yml).md
	alerts=$(sed -nE 's/^ *- alert: //p' "$rules")
	[[ $alerts ]] || continue
	[[ -f $page ]] || fail "there is no $page for the alerts of $rules"
	headings=$(sed -nE 's/^## //p' "$page")
	differ=$(diff <(sort <<<"$alerts") <(sort <<<"$headings")) ||
		fail "alerts of $rules (<) and headings of $page (>) are not the same:"$'\n'"$differ"
	wanted=$(while read -r alert; do echo "$alert $page#${alert,,}"; done <<<"$alerts")
	found=$(awk '$2 == "alert:" { if (alert) print alert, at; alert = $3; at = "none" } $1 == "runbook:" { at = $2 }
		END { print alert, at }' "$rules")
	differ=$(diff <(printf '%s\n' "$wanted") <(printf '%s\n' "$found")) ||
		fail "annotations \`runbook\` of $rules are not these (<) but those (>):"$'\n'"$differ"
done

# The server of pages runs inside the image; its tests need nothing but Python.
(cd provisioner/components/recipes/monitoring && python3 -B -m unittest test_pages >"$work/pages" 2>&1) ||
	fail "the server of pages:"$'\n'"$(cat "$work/pages")"

# Jinja is what the provisioner renders with; its own tests render the same files.
python3 - "$work" <<'PY'
import sys
from jinja2 import Environment, FileSystemLoader, StrictUndefined

templates = Environment(loader=FileSystemLoader("monitoring"), undefined=StrictUndefined)
webhook = {"webhook_url": "http://127.0.0.1:9/alerts"}
pagerduty = {"pagerduty_key_file": "/run/keys/pagerduty"}
opsgenie = {"opsgenie_key_file": "/run/keys/opsgenie"}
urls = {"pagerduty_url": "http://127.0.0.1:9/v2/enqueue", "opsgenie_url": "http://127.0.0.1:9/"}
alertmanager = {
    "webhook": webhook,
    "pagerduty": webhook | pagerduty,
    "opsgenie": webhook | opsgenie,
    "both": webhook | pagerduty | opsgenie,
    "elsewhere": webhook | pagerduty | opsgenie | urls,
}
blackbox = {
    "authority": {"server_name": "localhost", "own_certificate": False},
    "own": {"server_name": "shop.example.com", "own_certificate": True},
}
for file, shapes in {"alertmanager": alertmanager, "blackbox": blackbox}.items():
    for name, variables in shapes.items():
        with open(f"{sys.argv[1]}/{file}.{name}.yml", "w") as out:
            out.write(templates.get_template(f"{file}.yml.j2").render(variables) + "\n")
PY

judge() {
	set -euo pipefail
	quietly() { # prints what a checker says only if it refuses something
		"$@" >said 2>&1 || {
			cat said >&2
			return 1
		}
	}
	goes() { # goes FILE RECEIVER LABEL...
		quietly amtool config routes test --config.file="$1" --verify.receivers="$2" "${@:3}" || {
			echo "$1: ${*:3} does not go to $2" >&2
			return 1
		}
	}
	quietly promtool check rules --lint=all --lint-fatal rules/*.yml
	quietly promtool test rules tests/*.yml
	for file in alertmanager.*.yml; do
		quietly amtool check-config "$file"
		goes "$file" page alertname=BackendSlow severity=page system=app
		goes "$file" webhook alertname=JobSlow severity=ticket system=workers
		goes "$file" webhook alertname=Watchdog severity=none system=monitoring
		goes "$file" webhook alertname=Synthetic severity=page synthetic=true
		goes "$file" webhook alertname=Unlabelled
	done
	for file in blackbox.*.yml; do
		quietly prometheus-blackbox-exporter --config.check --config.file="$file"
	done
	version() { "$@" --version 2>&1 | sed -nE '1s/.*version ([^ ]+).*/\1/p'; }
	printf 'monitoring/ is well: %s alerts, %s cases; promtool %s, amtool %s\n' "$(cat rules/*.yml | grep -c 'alert: ')" \
		"$(cat tests/*.yml | grep -c 'eval_time: ')" "$(version promtool)" "$(version amtool)"
}
{
	declare -f judge
	echo judge
} >"$work/judge.sh"

if (($#)); then
	tar -C "$work" -cf - . |
		docker run --rm --interactive --network none --entrypoint bash "$1" -c 'cd "$(mktemp -d)" && tar -xf - && bash judge.sh'
else
	(cd "$work" && bash judge.sh)
fi
