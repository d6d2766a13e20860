// Package dashboard is the page that shows a broker in a browser: plain files in the
// binary, which load nothing from elsewhere. All that it knows and does it asks of
// the gateway (api/gateway), so whatever it can do, the command line can.
package dashboard

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed ui
var files embed.FS

// policy lets the page run its own scripts and nothing that came with a message:
// text that clients chose is only ever shown as text, and this is for the day when
// somebody forgets.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page at / and what belongs to it beside it.
func Handler() http.Handler {
	root, err := fs.Sub(files, "ui")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	serve := http.FileServerFS(root)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "only to be read", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // embedded files have no date, and a new binary has a new page
		serve.ServeHTTP(w, r)
	})
}
