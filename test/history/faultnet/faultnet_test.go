package faultnet

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// dial is a connection from node a, by its preamble.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	hello := make([]byte, 160)
	hello[32] = byte(copy(hello[33:], "a/0000000000000001"))
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	return c
}

// network is one with a node b, whose side of a connection comes from the channel
// when its preamble has arrived.
func network(t *testing.T) (n *Net, address string, accepted chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n, accepted = New(), make(chan net.Conn, 8)
	if address, err = n.Add("b", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if _, err := io.ReadFull(c, make([]byte, 160)); err == nil {
					accepted <- c
				}
			}()
		}
	}()
	t.Cleanup(func() { n.Close(); l.Close() })
	return n, address, accepted
}

func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := c.Write([]byte(line + "\n")); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsCutOneWayWaitsAndTheOtherWayPasses(t *testing.T) {
	n, address, accepted := network(t)
	a := dial(t, address)
	b := <-accepted
	fromA, fromB := bufio.NewReader(b), bufio.NewReader(a)
	n.Set("a", "b", Link{Cut: true})
	say(t, a, "held back")
	for range 3 {
		say(t, b, "passes")
		if line, err := fromB.ReadString('\n'); line != "passes\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	b.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if line, err := fromA.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("over a cut link came %q, %v", line, err)
	}
	b.SetReadDeadline(time.Time{})
	n.Heal()
	if line, err := fromA.ReadString('\n'); line != "held back\n" {
		t.Fatalf("afterwards: %q, %v", line, err)
	}
	n.Set("b", "a", Link{Delay: time.Millisecond})
	say(t, b, "slowly")
	if line, err := fromB.ReadString('\n'); line != "slowly\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

func TestAConnectionOverACutLinkIsNotHeardOf(t *testing.T) {
	n, address, accepted := network(t)
	n.Set("a", "b", Link{Cut: true})
	dial(t, address)
	select {
	case <-accepted:
		t.Fatal("it arrived")
	case <-time.After(50 * time.Millisecond):
	}
	n.Heal()
	<-accepted
}

func TestResetEndsWhatIsBetweenTwoNodes(t *testing.T) {
	n, address, accepted := network(t)
	a := dial(t, address)
	<-accepted
	n.Reset("b", "c")
	n.Reset("b", "a")
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Fatal("it goes on")
	}
}
