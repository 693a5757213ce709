package values

import "maps"

// merge returns a with b laid over it: maps are merged key by key, anything else of b replaces what a has, null included. It
// changes neither; the result shares what only one of them has.
func merge(a, b map[string]any) map[string]any {
	out := make(map[string]any, len(a)+len(b))
	maps.Copy(out, a)
	for key, over := range b {
		under, haveUnder := out[key].(map[string]any)
		above, haveAbove := over.(map[string]any)
		if haveUnder && haveAbove {
			out[key] = merge(under, above)
			continue
		}
		out[key] = over
	}
	return out
}
