module github.com/mettle-go/mettle/examples

go 1.26.0

require (
	github.com/mettle-go/mettle v0.1.0
	github.com/stretchr/testify v1.12.1
	go.etcd.io/bbolt v1.5.0
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

replace github.com/mettle-go/mettle => ../
