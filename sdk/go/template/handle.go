package main

import (
	"encoding/json"
	"strconv"

	"sandpost"
)

type order struct {
	ID         string `json:"id"`
	Customer   string `json:"customer"`
	TotalCents *int64 `json:"total_cents"`
}

type invoice struct {
	Order      string `json:"order"`
	Customer   string `json:"customer"`
	TotalCents int64  `json:"total_cents"`
}

// handle adds up what each customer has ordered, and publishes invoice.due.
func handle(message *sandpost.Message, bus *sandpost.Bus) error {
	var order order
	if err := json.Unmarshal(message.Data, &order); err != nil {
		return sandpost.Reject("the data is no order: %w", err)
	}
	if order.ID == "" || order.Customer == "" || order.TotalCents == nil {
		return sandpost.Reject("an order needs an id, a customer and total_cents")
	}
	key := "total/" + order.Customer
	stored, _, err := bus.Get(key)
	if err != nil {
		return err
	}
	// A customer who has ordered nothing yet has no total.
	total, _ := strconv.ParseInt(string(stored), 10, 64)
	total += *order.TotalCents
	if err := bus.Set(key, strconv.AppendInt(nil, total, 10)); err != nil {
		return err
	}
	bus.Infof("%s has ordered %d cents", order.Customer, total)
	data, err := json.Marshal(invoice{order.ID, order.Customer, total})
	if err != nil {
		return err
	}
	return bus.Publish(sandpost.Event{
		Topic: "invoice.due", Key: order.Customer, ContentType: "application/json", Data: data,
	})
}
