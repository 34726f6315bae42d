#!/usr/bin/env bash
# Plans MLPerf DLRM-DCNv2 on eight H100: starts a server on the shipped cost model, asks, stops it.
# Usage: demo.sh BIN OUT   BIN: folder with shardwright and shardwright-server; OUT: where files go.
set -euo pipefail

bin=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
server_pid=

stop_server() {
    if [ -n "$server_pid" ] && kill -0 "$server_pid" 2>/dev/null; then
        kill -TERM "$server_pid"
        wait "$server_pid" 2>/dev/null || true
    fi
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$out"
rm -f "$out/response.json"
: >"$out/server.log"
cp "$here/mlperf_dlrm_dcnv2.json" "$out/request.json"

"$bin/shardwright-server" --host 127.0.0.1 --port 0 --metrics-port 0 --log-format json \
    >"$out/server.log" 2>&1 &
server_pid=$!

port=
for attempt in $(seq 1800); do
    [ "$attempt" = 50 ] && echo "The first start compiles the search: some ten seconds, once." >&2
    port=$(sed -nE 's/.*"event": "serving".*"port": ([0-9]+).*/\1/p' "$out/server.log" | head -n 1)
    [ -n "$port" ] && break
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
done
if [ -z "$port" ]; then
    echo "demo: the server did not start; its log says:" >&2
    tail -n 20 "$out/server.log" >&2
    exit 1
fi

"$bin/shardwright" plan "$out/request.json" --server "127.0.0.1:$port" -o "$out/response.json" &
wait $!

echo
echo "request:  $out/request.json"
echo "response: $out/response.json"
