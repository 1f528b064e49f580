package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
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

// tryLater is EX_TEMPFAIL of sysexits.h.
const tryLater = 75

func main() {
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(tryLater)
	}
	line, err := handle(data)
	if err != nil {
		// Any other code rejects the message, and what stands on stderr is the reason.
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Each line is published, in the transaction that acknowledges the message.
	fmt.Println(line)
}

// handle turns an order into a line that is an invoice.
func handle(data []byte) (string, error) {
	var order order
	if err := json.Unmarshal(data, &order); err != nil {
		return "", fmt.Errorf("the data is no order: %w", err)
	}
	if order.ID == "" || order.Customer == "" || order.TotalCents == nil {
		return "", fmt.Errorf("an order needs an id, a customer and total_cents")
	}
	line, err := json.Marshal(invoice{order.ID, order.Customer, *order.TotalCents})
	return string(line), err
}
