//go:build !linux

package tcp

import (
	"net"
	"time"
)

func boundUntaken(*net.TCPConn, time.Duration) error { return nil }
