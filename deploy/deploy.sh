#!/usr/bin/env bash
# Applies an overlay to the cluster of the current kubectl context and waits until it runs.
# Usage: deploy.sh OVERLAY     Environment: KUBECTL (kubectl), ROLLOUT_TIMEOUT (300s)
# Exit status: 0 deployed; 1 the cluster refused or did not get ready; 2 nothing was tried.
set -euo pipefail

kubectl=${KUBECTL:-kubectl}
timeout=${ROLLOUT_TIMEOUT:-300s}
overlays=$(cd "$(dirname "$0")/kubernetes/overlays" && pwd)

# stop STATUS WHAT-TO-DO: one line, and out
stop() {
    echo "deploy: $2" >&2
    exit "$1"
}

overlay=${1:-}
known=$(cd "$overlays" && echo *)
[ -n "$overlay" ] || stop 2 "name an overlay: make deploy OVERLAY=NAME; there are: $known"
folder=$overlays/$overlay
[[ $overlay =~ ^[a-z0-9-]+$ && -f $folder/kustomization.yaml ]] ||
    stop 2 "no overlay '$overlay'; there are: $known (deploy/kubernetes/overlays)"

command -v "$kubectl" >/dev/null ||
    stop 2 "'$kubectl' not found; install kubectl, or point KUBECTL at it"

rendered=$("$kubectl" kustomize "$folder") ||
    stop 2 "the overlay does not render; mend $folder as the message above says"
if grep -Eq 'registry\.example\.com|example-bucket' <<<"$rendered"; then
    stop 2 "put your own registry and bucket in $folder/kustomization.yaml: it still names examples"
fi

context=$("$kubectl" config current-context 2>/dev/null) ||
    stop 2 "no current context; choose a cluster: kubectl config use-context NAME"
"$kubectl" get --raw /readyz --request-timeout=10s >/dev/null ||
    stop 2 "cluster '$context' does not answer; check network, VPN and login, then again"

namespace=$(sed -n 's/^namespace: *//p' "$folder/kustomization.yaml")
echo "deploy: $overlay to cluster '$context', namespace '$namespace'"

# a namespace that does not exist yet has nothing to compare with
found=$("$kubectl" get namespace "$namespace" --ignore-not-found -o name) ||
    stop 2 "cannot read namespaces of '$context'; ask for the right to get them"
if [ -z "$found" ]; then
    echo "deploy: first deployment, everything is new"
else
    # A Job cannot be changed, only made anew. One that does not run holds nothing: its parts are in
    # the store, and a new one goes on behind them.
    workers=(-n "$namespace" -l app.kubernetes.io/name=shardwright-worker)
    running=$("$kubectl" get jobs "${workers[@]}" \
        -o jsonpath='{range .items[?(@.status.active)]}{.metadata.name} {end}') ||
        stop 2 "cannot read the Jobs of '$namespace'; ask for the right to get them"
    [ -z "$running" ] ||
        stop 2 "measurements are running: ${running% }; wait for them, or stop them: $kubectl \
delete job -n $namespace ${running% }"
    "$kubectl" delete jobs "${workers[@]}" ||
        stop 2 "cannot delete the idle worker Jobs; ask for the right to delete Jobs in '$namespace'"
    status=0
    "$kubectl" diff -k "$folder" || status=$?
    case $status in
    0) echo "deploy: no difference" ;;
    1) ;;
    *) stop 1 "the cluster refuses the manifests (above); nothing was applied. A missing kind \
'ServiceMonitor' or 'PodMonitor' means: install the Prometheus operator, or take components/monitoring out" ;;
    esac
fi

"$kubectl" apply -k "$folder" ||
    stop 1 "apply failed (above), maybe halfway; mend the cause and deploy again, it is repeatable"

"$kubectl" rollout status deployment/shardwright-server -n "$namespace" --timeout="$timeout" ||
    stop 1 "the server did not get ready in $timeout; see why: $kubectl logs -n $namespace \
deployment/shardwright-server; go back: $kubectl rollout undo -n $namespace \
deployment/shardwright-server"

echo "deploy: done; servers answer at dns:///shardwright-server.$namespace:50051"
