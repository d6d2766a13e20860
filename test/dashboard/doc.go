// Package dashboard holds the dashboard's test: a broker as users run it, traffic by
// the gantry client and by the official one, and a real browser that clicks through
// every page. It takes the screenshots in docs/screenshots, so they show what is.
//
// It is a module of its own, so that driving a browser is no dependency of the
// broker. It needs chromium: `make dashboard`.
package dashboard
