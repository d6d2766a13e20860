package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Size and margins of a plot, in pixels.
const (
	plotWidth, panelHeight = 860, 200
	plotLeft, plotRight    = 70, 20
	plotTop, panelGap      = 40, 46
)

// WriteSVG draws a result over time: messages a second, and below it, when there
// is latency, its median and 99th percentile on a logarithmic scale.
func WriteSVG(w io.Writer, r Result) error {
	panels := 1
	if r.Latency != nil {
		panels = 2
	}
	height := plotTop + panels*(panelHeight+panelGap)
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", plotWidth, height)
	fmt.Fprintf(&s, `<text x="%d" y="22" font-size="15">%s, %d bytes: %.0f messages/s</text>`+"\n", plotLeft, html.EscapeString(r.Phase), r.Size, r.PerSecond)
	end := 1.0
	for _, p := range r.Timeline {
		end = max(end, p.Second)
	}
	rates := series{name: "messages/s", color: "#1f6fb4", y: func(p Point) float64 { return p.PerSecond }}
	panel{top: plotTop, end: end, points: r.Timeline, title: "messages/s"}.draw(&s, rates)
	if panels == 2 {
		panel{top: plotTop + panelHeight + panelGap, end: end, points: r.Timeline, title: "latency, ms", log: true}.draw(&s,
			series{name: "p50", color: "#2a9d55", y: func(p Point) float64 { return p.P50 }},
			series{name: "p99", color: "#c8402f", y: func(p Point) float64 { return p.P99 }})
	}
	s.WriteString("</svg>\n")
	_, err := io.WriteString(w, s.String())
	return err
}

type series struct {
	name, color string
	y           func(Point) float64
}

type panel struct {
	top    int
	end    float64 // seconds
	points []Point
	title  string
	log    bool
}

func (p panel) draw(s *strings.Builder, lines ...series) {
	low, high := math.Inf(1), 0.0
	for _, l := range lines {
		for _, pt := range p.points {
			if y := l.y(pt); y > 0 || !p.log {
				low, high = min(low, y), max(high, y)
			}
		}
	}
	ticks := p.ticks(&low, &high)
	x := func(sec float64) float64 { return plotLeft + sec/p.end*(plotWidth-plotLeft-plotRight) }
	y := func(v float64) float64 {
		share := (v - low) / (high - low)
		if p.log {
			share = math.Log(max(v, low)/low) / math.Log(high/low)
		}
		return float64(p.top+panelHeight) - share*panelHeight
	}
	for _, t := range ticks {
		fmt.Fprintf(s, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#555">%s</text>`+"\n",
			plotLeft, plotWidth-plotRight, y(t), y(t), plotLeft-6, y(t)+4, short(t))
	}
	step := niceStep(p.end / 8)
	for t := 0.0; t <= p.end; t += step {
		fmt.Fprintf(s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%g s</text>`+"\n", x(t), p.top+panelHeight+16, t)
	}
	for i, l := range lines {
		var path strings.Builder
		for _, pt := range p.points {
			if v := l.y(pt); v > 0 || !p.log {
				fmt.Fprintf(&path, "%.1f,%.1f ", x(pt.Second), y(v))
			}
		}
		fmt.Fprintf(s, `<polyline fill="none" stroke="%s" stroke-width="1.6" points="%s"/>`+"\n", l.color, strings.TrimSpace(path.String()))
		fmt.Fprintf(s, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", plotLeft+8+90*i, p.top+14, l.color, l.name)
	}
}

// ticks widens the range to round values and returns those that get a line.
func (p panel) ticks(low, high *float64) (out []float64) {
	if p.log {
		if math.IsInf(*low, 1) {
			*low, *high = 0.1, 1
		}
		*low = math.Pow(10, math.Floor(math.Log10(*low)))
		*high = math.Pow(10, math.Ceil(math.Log10(*high)))
		if *high <= *low {
			*high = *low * 10
		}
		for t := *low; t <= *high*1.001; t *= 10 {
			out = append(out, t)
		}
		return out
	}
	*low = 0
	step := niceStep(max(*high, 1) / 4)
	*high = step * math.Ceil(max(*high, 1)/step)
	for t := 0.0; t <= *high*1.001; t += step {
		out = append(out, t)
	}
	return out
}

// niceStep is the smallest of 1, 2, 5 times a power of ten that is at least v.
func niceStep(v float64) float64 {
	base := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*base >= v {
			return m * base
		}
	}
	return 10 * base
}

// short writes a number for an axis.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%gk", v/1e3)
	}
	return fmt.Sprintf("%g", v)
}
