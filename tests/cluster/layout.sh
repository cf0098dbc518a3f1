# shellcheck shell=bash disable=SC2034
# Sourced by the programs beside it: where a cluster's state is, its names and addresses, and its processes.

state=${GAMMARUS_CLUSTER:-/run/gammarus-cluster}
nodes=(node-a node-b)
# The network between the nodes. The host is in it too, with the control plane.
bridge=gammarus0
host_address=172.30.0.1
host_address6=fd67:6d72:30::1
pod_range=10.244.0.0/16
pod_range6=fd67:6d72:244::/56
service_range=10.96.0.0/16
service_range6=fd67:6d72:96::/108
api_service_address=10.96.0.1
dns_address=10.96.0.10
# Of Services of type LoadBalancer: an address is the pool's beginning and a number.
balancer_range=172.30.128.0/17
balancer_range6=fd67:6d72:31::/64
# What those of them begin with that are given to who asks for them, and to nobody else.
balancer_asked=(172.30.255. fd67:6d72:31::ffff:)

node_number() {
  local index
  for index in "${!nodes[@]}"; do
    [ "${nodes[index]}" != "$1" ] || echo $((index + 1))
  done
}
node_address() { echo "172.30.0.1$(node_number "$1")"; }
node_address6() { echo "fd67:6d72:30::1$(node_number "$1")"; }
node_pods() { echo "10.244.$(node_number "$1").0/24"; }
node_pods6() { echo "fd67:6d72:244:$(node_number "$1")::/64"; }
# Of the node's network namespace, of its interface on the host, and of its cgroup.
node_namespace() { echo "gammarus-$1"; }

need_root() {
  if [ "$(id -u)" -ne 0 ]; then
    echo "a cluster is made of namespaces, mounts and cgroups: run ${0##*/} as root" >&2
    exit 2
  fi
}

# Waits for a command to succeed: until_ok SECONDS WHAT COMMAND...
until_ok() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "$what did not happen; last:" >&2
      "$@" >&2 || true
      return 1
    fi
    sleep 0.2
  done
}

# A process's number together with when it began: a number alone may become another process's.
process_mark() {
  echo "$1 $(awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat")"
}
# The number of the process whose mark is in a file, if it is still there.
process_of() {
  local process
  [ -e "$1" ] || return 1
  read -r process _ <"$1"
  [ "$(process_mark "$process" 2>/dev/null)" = "$(cat "$1")" ] || return 1
  echo "$process"
}
# Ends the process whose mark is in a file, with its group if it has one, and waits until it is gone.
end_process() {
  local process
  process=$(process_of "$1") || return 0
  kill -KILL -- "-$process" 2>/dev/null || kill -KILL "$process" 2>/dev/null || true
  until_ok 20 "the end of process $process" process_is_gone "$1"
  rm -f "$1"
}
process_is_gone() {
  local process
  process=$(process_of "$1") || return 0
  grep -q '^State:.*zombie' "/proc/$process/status"
}

# A process of the control plane, from the command that is kept beside its log.
start_control() {
  setsid "$state/control/$1.run" >>"$state/control/$1.log" 2>&1 </dev/null &
  process_mark $! >"$state/control/$1.process"
}
# Says what such a process is, and starts it: control NAME COMMAND...
control() {
  local name=$1
  shift
  {
    echo '#!/bin/sh'
    echo "exec $(printf '%q ' "$@")"
  } >"$state/control/$name.run"
  chmod +x "$state/control/$name.run"
  start_control "$name"
}

# Runs a command on a node: in its namespaces, with what it sees of files.
on() {
  local process
  process=$(process_of "$state/nodes/$1/process") || { echo "there is no node $1 in $state" >&2; return 1; }
  shift
  nsenter --target "$process" --mount --net --pid --uts --ipc -- "$@"
}

# Loads images on all nodes at once: load_images ARCHIVE...
load_images() {
  local node image imports=() status=0
  for node in "${nodes[@]}"; do
    for image in "$@"; do
      on "$node" ctr --namespace k8s.io images import --all-platforms - <"$image" >/dev/null || exit 1
    done &
    imports+=($!)
  done
  for image in "${imports[@]}"; do
    wait "$image" || status=1
  done
  return $status
}
