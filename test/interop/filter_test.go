//go:build interop

package interop

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestTagFiltersMatchExactly(t *testing.T) {
	const topic = "tags"
	shared.admin(t, "topic", "create", topic, "--type", "normal", "--queues", "2")
	var messages []message
	for _, tag := range []string{"A", "B", "C", "AB", "a", "Aa", "BB", "标签", "*", ""} { // Aa and BB have equal Java hashes
		messages = append(messages, message{Body: "tagged " + tag, Tag: tag}.Known("tag "+tag))
	}
	sent := map[string]message{}
	for i, id := range produce(t, shared, "node", topic, messages) {
		sent[id] = messages[i]
	}
	filters := []struct {
		expression string
		tags       []string
	}{
		{"A || B", []string{"A", "B"}},
		{"A||B", []string{"A", "B"}},
		{"Aa", []string{"Aa"}},
		{"BB||标签", []string{"BB", "标签"}},
		{"*", []string{"A", "B", "C", "AB", "a", "Aa", "BB", "标签", "*", ""}},
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			var roles []role
			for i, f := range filters {
				roles = append(roles, role{Name: f.expression, Kind: "push", Topic: topic, Group: fmt.Sprintf("tags-%s-%d", language, i), Filter: f.expression})
			}
			c := start(t, shared, language, roles...)
			for _, f := range filters {
				c.Await(t, f.expression+" has its messages", patience, func() bool { return len(c.All(f.expression, "message")) >= len(f.tags) })
			}
			time.Sleep(time.Second) // what should not come has had its chance
			for _, f := range filters {
				want := map[string]message{}
				for id, m := range sent {
					for _, tag := range f.tags {
						if m.Tag == tag {
							want[id] = m
						}
					}
				}
				exactly(t, c, f.expression, want)
			}
		})
	}
}

func TestSQLFiltersSeeTagsAndProperties(t *testing.T) {
	const topic = "sql"
	shared.admin(t, "topic", "create", topic, "--type", "normal", "--queues", "2")
	messages := []message{
		message{Body: "cheap", Tag: "A", Properties: map[string]string{"price": "5", "city": "Köln"}}.Known("cheap"),
		message{Body: "dear", Tag: "B", Properties: map[string]string{"price": "95.5"}}.Known("dear"),
		message{Body: "no price", Tag: "A"}.Known("no price"),
	}
	sent := map[string]message{}
	for i, id := range produce(t, shared, "java", topic, messages) {
		sent[id] = messages[i]
	}
	filters := map[string][]string{
		"price BETWEEN 1 AND 10":           {"cheap"}, // against an integer, 95.5 is not a number
		"price IS NOT NULL AND price>10.0": {"dear"},
		"TAGS = 'A' OR price > 90.0":       {"cheap", "dear", "no price"},
		"city = 'Köln'":                    {"cheap"},
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			var roles []role
			for expression := range filters {
				roles = append(roles, role{Name: expression, Kind: "push", Topic: topic, Group: fmt.Sprintf("sql-%s-%d", language, len(roles)), Filter: expression, SQL: true})
			}
			c := start(t, shared, language, roles...)
			for expression, names := range filters {
				c.Await(t, expression+" has its messages", patience, func() bool { return len(c.All(expression, "message")) >= len(names) })
			}
			time.Sleep(time.Second) // what should not come has had its chance
			for expression, names := range filters {
				want := map[string]message{}
				for id, m := range sent {
					if slices.Contains(names, m.Properties["case"]) {
						want[id] = m
					}
				}
				exactly(t, c, expression, want)
			}
		})
	}
}
