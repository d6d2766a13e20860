// Package interop runs the official RocketMQ 5 clients of four languages, unchanged, against a gantry process. See README.md; run.sh runs it.
package interop
