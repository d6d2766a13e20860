package main

import (
	"fmt"
	"slices"
	"strconv"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// What the producer does with an order's transaction after its local part.
const (
	commits   = "commits"
	rollsBack = "rolls back"
	leaves    = "leaves undecided" // as a producer does that dies in between
)

// An order is one row of the example. All that happens to it follows from its place, so every step knows what to expect.
type order struct {
	id     string
	amount int    // whole euros: SQL reads a property as an integer when it is compared with one, and then 150.50 is no number
	region string // "": the customer gave none
	fate   string
	valid  bool // what the shop's own books say when the broker asks, or the person
	paid   bool
}

// puzzle is an order left undecided that the shop does not know about either when it is asked: a person decides.
const puzzle = "order-39"

const customers = 5

func newOrders(n int) []order {
	orders := make([]order, n)
	for i := range orders {
		o := order{
			id:     fmt.Sprintf("order-%02d", i),
			amount: 20 + 37*i%200,
			region: []string{"EU", "US", "EU", "APAC", "", "EU", "US"}[i%7],
			fate:   []string{commits, commits, rollsBack, commits, leaves}[i%5],
			paid:   i%3 != 0,
		}
		o.valid = o.fate == commits || o.fate == leaves && i%2 == 0 || o.id == puzzle
		orders[i] = o
	}
	return orders
}

// message is the order as it is sent to the topic orders.
func (o *order) message() *rmq.Message {
	m := &rmq.Message{Topic: "orders", Body: []byte(o.id)}
	m.SetKeys(o.id)
	m.AddProperty("amount", strconv.Itoa(o.amount))
	if o.region != "" {
		m.AddProperty("region", o.region)
	}
	return m
}

// ids returns the ids of the orders that keep holds for, sorted.
func ids(orders []order, keep func(*order) bool) []string {
	var found []string
	for i := range orders {
		if keep(&orders[i]) {
			found = append(found, orders[i].id)
		}
	}
	slices.Sort(found)
	return found
}
