#!/usr/bin/env bash
# Says what `make up` changed on this machine, besides this folder and the engine's own storage.
set -euo pipefail

changes=target/host-changes.txt
if [[ -s $changes ]]; then
	printf '\nChanged on this machine:\n'
	sort -u "$changes" | sed 's/^/  /'
else
	printf '\nChanged on this machine: nothing besides this folder and containers, images and volumes of the engine.\n'
fi
printf "\nThe provisioner is target/debug/provisioner; for the commands above:\n  export PATH=\"%s/target/debug:\$PATH\"\n" "$PWD"
