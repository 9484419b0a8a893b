// Package chart draws the figures of the scorecard as SVG, with a ground of its own, so
// that a page may be light or dark.
package chart

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/mettle-go/mettle/benchmarks/scorecard"
)

// hues are those of Okabe and Ito, which the colour-blind can tell apart.
var hues = []color.Color{
	rgb(0x0072b2), rgb(0xd55e00), rgb(0x009e73), rgb(0xcc79a7), rgb(0xe69f00), rgb(0x56b4e9), rgb(0x7f7f7f), rgb(0x000000),
}

func rgb(v uint32) color.Color {
	return color.RGBA{uint8(v >> 16), uint8(v >> 8), uint8(v), 0xff}
}

var (
	ground = rgb(0xfcfcfa)
	ink    = rgb(0x1a1a1a)
	faint  = rgb(0xdddddd)
	shade  = rgb(0xf1e5d8)
)

func paper(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = ground
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding, p.Title.TextStyle.Color = vg.Points(6), ink
	p.Legend.Top, p.Legend.TextStyle.Color = true, ink
	for _, style := range []*text.Style{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle,
		&p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant = sans
	}
	p.Legend.Padding, p.Legend.ThumbnailWidth = vg.Points(2), vg.Points(18)
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = faint, faint
	p.Add(grid)
	return p
}

// save writes p with a margin, and tells whoever shows it how wide each text is: letters
// of another font than the one that it was laid out with are then as wide as those.
func save(p *plot.Plot, w io.Writer, width, height vg.Length) error {
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.SetColor(ground)
	all.Fill(all.Rectangle.Path())
	p.Draw(draw.Crop(all, vg.Points(8), -vg.Points(8), vg.Points(6), -vg.Points(8)))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	_, err := w.Write(letters.ReplaceAllFunc(svg.Bytes(), fitted))
	return err
}

// letters are the elements of an SVG that are text: what is before their style, their
// size, and the text.
var letters = regexp.MustCompile(`<text ([^>]*?font-family:)Liberation Sans([^>]*?font-size:([0-9.]+)px[^>]*)>([^<]*)</text>`)

func fitted(element []byte) []byte {
	m := letters.FindSubmatch(element)
	if m == nil {
		return element
	}
	size, err := strconv.ParseFloat(string(m[3]), 64)
	if err != nil || len(m[4]) == 0 { // nothing to fit
		return element
	}
	face := font.DefaultCache.Lookup(font.Font{Typeface: "Liberation", Variant: sans}, vg.Length(size))
	width := face.Width(html.UnescapeString(string(m[4]))).Points()
	return fmt.Appendf(nil, `<text textLength="%.4g" lengthAdjust="spacingAndGlyphs" %sLiberation Sans,Arial,Helvetica,sans-serif%s>%s</text>`,
		width, m[1], m[2], m[4])
}

const sans = font.Variant("Sans")

// Curve draws goodput over time: what the contenders named make of a cell, and what
// nobody can exceed.
func Curve(w io.Writer, d *scorecard.Data, c scorecard.Curve) error {
	p := paper(c.Title, "seconds", "answers in time, a second")
	fault, err := plotter.NewPolygon(plotter.XYs{{X: c.From, Y: 0}, {X: c.To, Y: 0}, {X: c.To, Y: 1.1 * c.Most}, {X: c.From, Y: 1.1 * c.Most}})
	if err != nil {
		return err
	}
	fault.Color, fault.Width = shade, 0
	p.Add(fault)
	p.Legend.Add(c.Fault, fault)
	limit, err := plotter.NewLine(plotter.XYs{{X: 0, Y: c.Most}, {X: c.Until, Y: c.Most}})
	if err != nil {
		return err
	}
	limit.Color, limit.Dashes = ink, []vg.Length{vg.Points(1), vg.Points(3)}
	p.Add(limit)
	p.Legend.Add("min(λ, C)", limit)
	for i, name := range c.Contenders {
		points := d.Curve(c.Cell, name)
		if points == nil {
			return fmt.Errorf("chart: no curve of %s in %s", name, c.Cell)
		}
		line, err := plotter.NewLine(steps(points))
		if err != nil {
			return err
		}
		line.Color, line.Width = hues[i%len(hues)], vg.Points(1.4)
		switch name {
		case "mettle":
			line.Width = vg.Points(2.8)
		case "oracle":
			line.Color, line.Dashes = ink, []vg.Length{vg.Points(5), vg.Points(3)}
		}
		p.Add(line)
		p.Legend.Add(name, line)
	}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1.24*c.Until, 0, 1.1*c.Most // room for the legend
	return save(p, w, 22*vg.Centimeter, 11*vg.Centimeter)
}

// steps turns what was counted in each second into points in its middle.
func steps(counts []float64) (xys plotter.XYs) {
	for i, n := range counts {
		xys = append(xys, plotter.XY{X: float64(i) + 0.5, Y: n})
	}
	return xys
}

// Dots draws a measure of all contenders in some cells, with 95 % intervals.
func Dots(w io.Writer, d *scorecard.Data, c scorecard.Dots) error {
	p := paper(c.Title, c.Label, "")
	names := slices.DeleteFunc(d.Contenders(), func(name string) bool {
		return !slices.ContainsFunc(c.Cells, func(cell string) bool {
			_, ok := d.Stats[scorecard.Key{Cell: cell, Contender: name, Measure: c.Measure}]
			return ok
		})
	})
	if len(names) == 0 {
		return fmt.Errorf("chart: no figures for %s", c.File)
	}
	slices.Reverse(names) // the first at the top
	p.NominalY(names...)
	most := c.Limit
	for i, cell := range c.Cells {
		points := &intervals{}
		for row, name := range names {
			s, ok := d.Stats[scorecard.Key{Cell: cell, Contender: name, Measure: c.Measure}]
			if !ok {
				continue
			}
			x := max(s.Mean, c.Least)
			points.XYs = append(points.XYs, plotter.XY{X: x, Y: height(row, i, len(c.Cells))})
			points.lows = append(points.lows, min(s.Half, x-c.Least))
			points.highs = append(points.highs, s.Half)
			most = max(most, s.Mean+s.Half)
		}
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return fmt.Errorf("chart: %s: %w", cell, err)
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: hues[i%len(hues)], Radius: vg.Points(3), Shape: draw.CircleGlyph{}}
		bars, err := plotter.NewXErrorBars(points)
		if err != nil {
			return err
		}
		bars.Color, bars.CapWidth = dots.Color, vg.Points(4)
		p.Add(bars, dots)
		p.Legend.Add(c.Names[i], dots)
		if c.Pauses != "" {
			if err := pauses(p, d, c, i, names); err != nil {
				return err
			}
		}
	}
	for _, b := range c.Bounds {
		line, err := plotter.NewLine(plotter.XYs{{X: b.At, Y: -0.5}, {X: b.At, Y: float64(len(names)) - 0.5}})
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = ink, vg.Points(1.2), []vg.Length{vg.Points(1), vg.Points(3)}
		if i := slices.Index(c.Cells, b.Cell); i >= 0 {
			line.Color = hues[i%len(hues)]
		}
		p.Add(line)
		most = max(most, b.At)
	}
	if c.BoundName != "" {
		p.Legend.Add(c.BoundName, thumbnail{dotted: c.Pauses == ""})
	}
	if c.Limit > 0 {
		limit, err := plotter.NewLine(plotter.XYs{{X: c.Limit, Y: -0.5}, {X: c.Limit, Y: float64(len(names)) - 0.5}})
		if err != nil {
			return err
		}
		limit.Color, limit.Dashes = ink, []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(limit)
		p.Legend.Add(c.LimitName, limit)
	}
	p.X.Min, p.X.Max = 0, most*1.35 // room for the legend
	if c.Least > 0 {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.X.Min, p.X.Max = c.Least, most*math.Pow(most/c.Least, 0.35)
	}
	p.Y.Min, p.Y.Max = -0.5, math.Max(float64(len(names))-0.5, 0.5)
	return save(p, w, 22*vg.Centimeter, vg.Length(3+0.62*float64(len(names)))*vg.Centimeter)
}

// height is where a contender has its dot for one of so many cells.
func height(row, cell, cells int) float64 {
	return float64(row) + 0.16*(float64(cells-1)/2-float64(cell))
}

// pauses draws a ring for everybody at half the mean pause between probes, in a cell.
func pauses(p *plot.Plot, d *scorecard.Data, c scorecard.Dots, cell int, names []string) error {
	var points plotter.XYs
	for row, name := range names {
		s, ok := d.Stats[scorecard.Key{Cell: c.Cells[cell], Contender: name, Measure: c.Pauses}]
		if ok && s.Mean > 0 && name != "oracle" { // which needs no probe
			points = append(points, plotter.XY{X: max(0.5/s.Mean, c.Least), Y: height(row, cell, len(c.Cells))})
		}
	}
	if len(points) == 0 {
		return nil
	}
	rings, err := plotter.NewScatter(points)
	if err != nil {
		return fmt.Errorf("chart: %s: %w", c.File, err)
	}
	rings.GlyphStyle = draw.GlyphStyle{Color: hues[cell%len(hues)], Radius: vg.Points(4), Shape: draw.RingGlyph{}}
	p.Add(rings)
	return nil
}

// thumbnail is a mark of bounds in a legend: dots, or else a ring.
type thumbnail struct{ dotted bool }

func (t thumbnail) Thumbnail(c *draw.Canvas) {
	middle := c.Center()
	if !t.dotted {
		c.DrawGlyph(draw.GlyphStyle{Color: ink, Radius: vg.Points(4), Shape: draw.RingGlyph{}}, middle)
		return
	}
	style := draw.LineStyle{Color: ink, Width: vg.Points(1.2), Dashes: []vg.Length{vg.Points(1), vg.Points(3)}}
	c.StrokeLine2(style, c.Min.X, middle.Y, c.Max.X, middle.Y)
}

// intervals are points with a width to both sides.
type intervals struct {
	plotter.XYs
	lows, highs []float64
}

func (p *intervals) XError(i int) (low, high float64) { return p.lows[i], p.highs[i] }
