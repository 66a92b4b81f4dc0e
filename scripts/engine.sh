#!/usr/bin/env bash
# Makes sure that a Docker engine answers. Uses the one that does (DOCKER_HOST and contexts included); else, as root on
# Debian or Ubuntu and after asking, installs and starts one. YES=1 or CI=true answers the question.
set -euo pipefail

changes=target/host-changes.txt

say() { printf '%s\n' "$*" >&2; }

answers() {
	if command -v docker >/dev/null; then
		timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
	else
		# No client to ask with: an address or a socket that we may use is left to `provisioner doctor` to judge.
		[[ -n ${DOCKER_HOST:-} ]] || listens /var/run/docker.sock
	fi
}

# A socket outlives the engine that made it. Perl is on every Debian and Ubuntu.
listens() {
	[[ -w $1 ]] || return 1
	command -v perl >/dev/null || return 0
	perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => shift)' "$1"
}

note() {
	mkdir -p target
	printf '%s\n' "$*" >>"$changes"
}

# Without a registry in reach the base image is bootstrapped from Debian's packages, which takes mmdebstrap.
needs_mmdebstrap() {
	! command -v mmdebstrap >/dev/null && ! docker image inspect provisioner/base:trixie >/dev/null 2>&1 &&
		! timeout 8 docker pull -q debian:trixie-slim >/dev/null 2>&1
}

ask() {
	[[ ${YES:-} == 1 || ${CI:-} == true ]] && return 0
	if [[ ! -t 0 ]]; then
		say "error: $1, and nobody is there to ask"
		say "hint: YES=1 make up"
		exit 1
	fi
	read -rp "$1? [y/N] " answer
	[[ $answer == [yY]* ]] || { say "nothing was changed"; exit 1; }
}

install() {
	say "installing $*"
	# A fresh machine may have no package lists, or old ones.
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
	note "installed the Debian packages: $*"
}

start() {
	if [[ -d /run/systemd/system ]]; then
		systemctl start docker
		note "started the service docker"
	else
		# A machine without an init system. A pid file left by a stopped machine may name somebody else's process.
		local pid
		pid=$(cat /var/run/docker.pid 2>/dev/null || true)
		if [[ -n $pid && $(cat "/proc/$pid/comm" 2>/dev/null) != dockerd ]]; then rm -f /var/run/docker.pid; fi
		setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
		note "started dockerd, log in /var/log/dockerd.log"
	fi
	for _ in $(seq 100); do
		answers && return 0
		sleep 0.3
	done
	say "error: dockerd was started but does not answer within 30 s"
	say "hint: tail /var/log/dockerd.log"
	exit 1
}

if [[ $(uname -m) != x86_64 ]]; then
	say "error: this machine is $(uname -m); only x86_64 is supported so far"
	exit 1
fi

if answers; then
	if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && command -v docker >/dev/null && needs_mmdebstrap; then
		ask "no image registry answers; install mmdebstrap to make the base image from Debian's packages"
		install mmdebstrap
	fi
	exit 0
fi

if [[ -n ${DOCKER_HOST:-} ]]; then
	say "error: no engine answers at DOCKER_HOST=$DOCKER_HOST"
	say "hint: unset DOCKER_HOST, or start that engine"
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	say "error: no Docker engine answers, and this is not Debian or Ubuntu"
	say "hint: install Docker as your system does it, then run make up again"
	exit 1
fi
if [[ $(id -u) != 0 ]]; then
	say "error: no Docker engine answers. As root, run:"
	say "    apt-get update && apt-get install -y docker.io mmdebstrap && systemctl start docker"
	say "    usermod -aG docker $(id -un)    # then log in again"
	exit 1
fi
if command -v dockerd >/dev/null; then
	ask "no Docker engine answers; start dockerd"
	start
	if needs_mmdebstrap; then install mmdebstrap; fi
else
	ask "no Docker engine answers; install docker.io and mmdebstrap and start dockerd"
	install docker.io mmdebstrap
	start
fi
