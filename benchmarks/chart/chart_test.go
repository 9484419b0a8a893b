package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// data has a figure for everything that is drawn.
func data() *scorecard.Data {
	var results []scorecard.Result
	for _, c := range scorecard.Curves() {
		r := scorecard.Result{Cell: c.Cell, Seed: 1, Curves: make(map[string][]float64), Measures: make(map[string]scorecard.Measures)}
		for i, name := range c.Contenders {
			r.Measures[name] = scorecard.Measures{}
			for range int(c.Until) {
				r.Curves[name] = append(r.Curves[name], c.Most/float64(i+1))
			}
			r.Measures[name][scorecard.Goodput] = 1
		}
		results = append(results, r)
	}
	for _, c := range scorecard.Plots() {
		for i, cell := range c.Cells {
			for seed := range uint64(2) {
				m := scorecard.Measures{c.Measure: float64(i) + float64(seed)/10}
				results = append(results, scorecard.Result{Cell: cell, Seed: seed, Measures: map[string]scorecard.Measures{"mettle": m, "oracle": m}})
			}
		}
	}
	return scorecard.Summarize(nil, results)
}

// wellFormed fails unless svg is XML.
func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// The same figures give the same file, byte by byte, which names what it shows.
func TestCharts(t *testing.T) {
	d := data()
	for _, c := range scorecard.Curves() {
		var first, second bytes.Buffer
		require.NoError(t, Curve(&first, d, c))
		require.NoError(t, Curve(&second, d, c))
		assert.Equal(t, first.String(), second.String())
		wellFormed(t, first.Bytes())
		for _, name := range c.Contenders {
			assert.Contains(t, first.String(), ">"+name+"<")
		}
	}
	for _, c := range scorecard.Plots() {
		var first, second bytes.Buffer
		require.NoError(t, Dots(&first, d, c))
		require.NoError(t, Dots(&second, d, c))
		assert.Equal(t, first.String(), second.String())
		wellFormed(t, first.Bytes())
		for _, name := range c.Names {
			assert.Contains(t, first.String(), ">"+name+"<")
		}
	}
}

// Every text is as wide as it was laid out to be, whatever font there is where it is shown.
func TestTextIsFitted(t *testing.T) {
	for _, c := range scorecard.Plots() {
		var svg bytes.Buffer
		require.NoError(t, Dots(&svg, data(), c))
		texts := strings.Count(svg.String(), "<text ")
		assert.Greater(t, texts, 5, c.File)
		assert.Equal(t, texts, strings.Count(svg.String(), " textLength="), c.File)
		assert.NotContains(t, svg.String(), `textLength="0"`, c.File)
	}
	assert.Equal(t, "<text x>", string(fitted([]byte("<text x>"))))
}

// What has not been measured is not drawn.
func TestChartsWithoutFigures(t *testing.T) {
	none := scorecard.Summarize(nil, nil)
	assert.Error(t, Curve(io.Discard, none, scorecard.Curves()[0]))
	assert.Error(t, Dots(io.Discard, none, scorecard.Plots()[0]))
}

// What is drawn is run.
func TestChartsAreOfCells(t *testing.T) {
	cells := make(map[string]bool)
	for _, s := range scorecard.Scenarios() {
		for _, c := range s.Cells {
			cells[s.ID+"/"+c.Name] = true
		}
	}
	for _, c := range scorecard.Curves() {
		assert.True(t, cells[c.Cell], c.Cell)
	}
	for _, c := range scorecard.Plots() {
		assert.Len(t, c.Names, len(c.Cells))
		for _, cell := range c.Cells {
			assert.True(t, cells[cell], cell)
		}
	}
}
