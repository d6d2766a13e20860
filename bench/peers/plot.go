package main

import (
	"fmt"
	"html"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/test/bench/text"
)

// plotted is what each plot shows: tables, and the number of them that counts.
var plotted = []struct {
	file   string
	shape  string
	metric metric
}{
	{"publish", shapePublish, rate},
	{"single", shapeSingle, rate},
	{"consume", shapeConsume, rate},
	{"acknowledge", shapeAckEach, rate},
	{"send", shapeSend, sendP99},
	{"through", shapeThrough, thruP99},
	{"idle", shapeIdle, rss},
	{"many", shapeMany, rss},
	{"three", shapePublish3, rate},
	{"kill", shapeKill3, longest},
}

func plotFile(name string) string { return "benchmarks-peers-" + name + ".svg" }

// plot is the file that shows t; the first table of a shape has it.
func (t table) plot() string {
	first := slices.IndexFunc(tables, func(x table) bool { return x.shape == t.shape })
	for _, p := range plotted {
		if p.shape == t.shape && tables[first].size == t.size {
			return plotFile(p.file)
		}
	}
	return ""
}

// plots draws all, by file name.
func plots(r *results) map[string]string {
	all, files := r.rows(), map[string]string{}
	for _, p := range plotted {
		var panels []panel
		for _, t := range tables {
			if t.shape != p.shape {
				continue
			}
			for _, d := range []string{async, sync_} {
				rows := filter(t.rows(all), func(r *row) bool { return r.Durability == d })
				if len(rows) == 0 {
					continue
				}
				one := panel{title: fmt.Sprintf("%s, %s: %s", t.title(r), fsync(d), p.metric.name)}
				for _, r := range rows {
					v := r.values(p.metric)
					one.bars = append(one.bars, bar{r.who(), r.System, slices.Min(v), text.Median(v), slices.Max(v)})
				}
				panels = append(panels, one)
			}
		}
		if len(panels) > 0 {
			files[plotFile(p.file)] = draw(panels)
		}
	}
	return files
}

// panel is a group of bars on one scale that begins at 0.
type panel struct {
	title string
	bars  []bar
}

// bar is a median and the range around it.
type bar struct {
	label, system     string
	low, middle, high float64
}

// Colours that people tell apart whatever their eyes (Okabe and Ito).
var colours = map[string]string{"gantry": "#0072b2", "kafka": "#e69f00", "rocketmq": "#999999"}

// draw writes panels below each other as SVG.
func draw(panels []panel) string {
	const (
		width, left, right = 900, 380, 90 // px; the bars are between left and width-right
		barHeight, step    = 16, 24
		top, gap           = 30, 16
	)
	height := gap
	for _, p := range panels {
		height += top + step*len(p.bars) + gap
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#222">`, width, height, width, height)
	line(`<rect width="%d" height="%d" fill="#fff"/>`, width, height)
	y := gap
	for _, p := range panels {
		line(`<text x="10" y="%d" font-size="14" font-weight="bold">%s</text>`, y+16, html.EscapeString(p.title))
		y += top
		most := 0.0
		for _, bar := range p.bars {
			most = max(most, bar.high)
		}
		at := func(v float64) float64 {
			if most == 0 {
				return left
			}
			return left + v/most*(width-left-right)
		}
		for _, bar := range p.bars {
			middle := float64(y) + barHeight/2
			line(`<text x="%d" y="%.1f" text-anchor="end">%s</text>`, left-8, middle+4, html.EscapeString(bar.label))
			line(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, at(bar.middle)-left, barHeight, colours[bar.system])
			if bar.high > bar.low {
				line(`<path d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8" stroke="#222" fill="none"/>`,
					at(bar.low), middle, at(bar.high), at(bar.low), middle-4, at(bar.high), middle-4)
			}
			line(`<text x="%.1f" y="%.1f">%s</text>`, at(bar.high)+6, middle+4, text.Number(bar.middle))
			y += step
		}
		y += gap
	}
	line(`</svg>`)
	return b.String()
}
