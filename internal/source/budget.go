package source

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
)

// ErrSpent means: one attempt has asked servers for more than any needs. It is about who asked and not about the answer, so
// it must not be shared with others who ask the same.
var ErrSpent = fmt.Errorf("%w: one attempt sent too many requests or was sent too much", ErrLimit)

// Budget bounds all that one attempt asks of servers and reads of their answers. Every answer has a limit of its own; but a
// server that always names one more page, signature or dependency could have any number of them (faults.md A04, A08). Its
// methods may be called concurrently; those of nil bound nothing.
type Budget struct{ requests, bytes atomic.Int64 }

// NewBudget returns a budget of so many requests and bytes.
func NewBudget(requests, bytes int64) *Budget {
	b := &Budget{}
	b.requests.Store(requests)
	b.bytes.Store(bytes)
	return b
}

// budgetKey is the context key of the budget.
type budgetKey struct{}

// WithBudget returns a context whose requests are counted, by transports that look for a budget.
func WithBudget(ctx context.Context, b *Budget) context.Context {
	return context.WithValue(ctx, budgetKey{}, b)
}

// BudgetOf returns the budget of a context, or nil.
func BudgetOf(ctx context.Context) *Budget {
	b, _ := ctx.Value(budgetKey{}).(*Budget)
	return b
}

// Request takes a request from the budget.
func (b *Budget) Request() error {
	if b != nil && b.requests.Add(-1) < 0 {
		return ErrSpent
	}
	return nil
}

// Allow adds bytes for something that is bounded in another way, such as a layer by the size that its digest stands for.
func (b *Budget) Allow(bytes int64) {
	if b != nil {
		b.bytes.Add(bytes)
	}
}

// Body counts what is read of an answer.
func (b *Budget) Body(body io.ReadCloser) io.ReadCloser {
	if b == nil {
		return body
	}
	return &countedBody{body, b}
}

type countedBody struct {
	io.ReadCloser
	budget *Budget
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.budget.bytes.Add(-int64(n)) < 0 {
		return 0, ErrSpent
	}
	return n, err
}
