#!/bin/sh
# Makes the Go code of payments.proto. It needs protoc; the plugins come with Go.
set -eu
cd "$(dirname "$0")"
tool() { GOWORK=off go tool -modfile=../../../../../tools/go.mod -n "$1"; }
protoc --plugin="$(tool protoc-gen-go)" --plugin="$(tool protoc-gen-go-grpc)" \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative payments.proto
