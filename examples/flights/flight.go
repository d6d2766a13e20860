package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

//go:embed sample.csv
var sample []byte

// missing is how the file writes a value that is not known.
const missing = "NA"

// A flight is one row of the file. Its fields alias the file's text.
type flight struct {
	row     []byte // the row as it stands in the file, without the line break: the message's body
	carrier string // the tag
	key     string // carrier and flight number
	other   map[string]string
}

// readFlights returns the rows of a file ("" is the embedded sample), at most limit of them (0 is all).
func readFlights(file string, limit int) ([]flight, error) {
	text := sample
	if file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	head, rest, _ := bytes.Cut(text, []byte("\n"))
	columns := strings.Split(string(head), ",")
	var flights []flight
	for row := range bytes.Lines(rest) {
		if limit > 0 && len(flights) == limit {
			break
		}
		f, err := parse(columns, bytes.TrimSuffix(row, []byte("\n")))
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", len(flights)+1, err)
		}
		flights = append(flights, f)
	}
	return flights, nil
}

func parse(columns []string, row []byte) (flight, error) {
	f := flight{row: row, other: make(map[string]string, len(columns))}
	values := strings.Split(string(row), ",")
	if len(values) != len(columns) {
		return f, fmt.Errorf("%d columns, want %d", len(values), len(columns))
	}
	number := ""
	for i, v := range values {
		switch columns[i] {
		case "carrier":
			f.carrier = v
		case "flight":
			number = v
		default:
			if v != "" && v != missing {
				f.other[columns[i]] = v
			}
		}
	}
	f.key = f.carrier + number
	return f, nil
}

// message is the flight as it is sent.
func (f *flight) message(topic string) *rmq.Message {
	m := &rmq.Message{Topic: topic, Body: f.row}
	m.SetTag(f.carrier)
	m.SetKeys(f.key)
	for k, v := range f.other {
		m.AddProperty(k, v)
	}
	return m
}

// equal says whether a delivered message is the flight, to the last byte and property.
func (f *flight) equal(mv *rmq.MessageView) bool {
	return mv.GetTag() != nil && *mv.GetTag() == f.carrier && slices.Equal(mv.GetKeys(), []string{f.key}) &&
		bytes.Equal(mv.GetBody(), f.row) && maps.Equal(mv.GetProperties(), f.other)
}
