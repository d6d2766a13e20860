package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// attemptView is one delivery of a message in JSON.
type attemptView struct {
	Attempt int32  `json:"attempt"`
	Client  string `json:"client"`
	Leased  string `json:"leased"`
	Changed string `json:"changed,omitempty"`
	Ended   string `json:"ended"`
	End     string `json:"end"`
}

func viewAttempts(list []*gantryv1.DeliveryAttempt) (views []attemptView) {
	for _, a := range list {
		v := attemptView{
			Attempt: a.GetNumber(), Client: a.GetClient(), Leased: stamp(a.GetLeased()), Ended: stamp(a.GetEnded()),
			End: strings.ToLower(strings.TrimPrefix(a.GetEnd().String(), "DELIVERY_")),
		}
		if a.GetChanged() != nil {
			v.Changed = stamp(a.GetChanged())
		}
		views = append(views, v)
	}
	return views
}

// told is how a delivery ended, in words.
func (v attemptView) told() string {
	switch v.End {
	case "open":
		return "leased until " + v.Ended
	case "changed":
		return fmt.Sprintf("changed at %s to come again at %s", v.Changed, v.Ended)
	case "suspended":
		return fmt.Sprintf("suspended at %s to come again at %s", v.Changed, v.Ended)
	case "released":
		return "released, free at " + v.Ended + ": given back, or its client was gone"
	}
	return v.End + " " + v.Ended
}

func printAttempts(w io.Writer, views []attemptView) error {
	rows := make([][]string, 0, len(views))
	for _, v := range views {
		rows = append(rows, []string{fmt.Sprint(v.Attempt), v.Client, v.Leased, v.told()})
	}
	return printTable(w, []string{"ATTEMPT", "CLIENT", "HANDED OUT", "ENDED"}, rows)
}
