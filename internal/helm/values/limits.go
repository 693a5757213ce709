package values

import "fmt"

const (
	// maxBytes is how much the values of one release may amount to, aliases followed and lists filled up. The API server
	// takes objects of up to 1.5 MiB; a release, compressed, must fit into one (internal/helm/storage).
	maxBytes = 8 << 20
	// nodeBytes is what a map entry or list item is taken to need beside its text.
	nodeBytes = 16
	// indexBytes is what `[0]` in a path is taken to need: a list of its own, and a call within a call to set it.
	indexBytes = 4 << 10
)

// budget is how much room is left for values.
type budget int

// take says whether there is room for n more bytes.
func (b *budget) take(n int) bool {
	if n < 0 || n > int(*b) {
		*b = 0
		return false
	}
	*b -= budget(n)
	return true
}

func tooLarge() *Error {
	return &Error{Cause: TooLarge, Detail: fmt.Sprintf("all values together would be more than %d MiB", maxBytes>>20)}
}
