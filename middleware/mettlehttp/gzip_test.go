package mettlehttp_test

import (
	"bytes"
	"compress/gzip"
	"io"
)

var gzipped = func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, "plain")
	z.Close()
	return b.Bytes()
}()
