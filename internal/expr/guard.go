package expr

import (
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// maxWork bounds one call of a guarded function, in bytes or elements looked at, compared with each other or written.
const maxWork = 1 << 20

// measure is how the work of a function follows from the weights of its arguments.
type measure string

const (
	// sum: everything in the arguments is looked at once.
	sum measure = "sum"
	// product: everything in one is compared or joined with everything in the other.
	product measure = "product"
)

// guarded are the functions that can do more work than the limit at one stroke: CEL counts the cost of a call only when it is
// over, and looks at the clock only between the elements of a list.
var guarded = map[string]measure{
	operators.Equals:    sum, // a list of a list that is in it twice, and so on, has more elements than there are atoms
	operators.NotEquals: sum,
	operators.In:        sum,
	"format":            sum,
	"indexOf":           product,
	"join":              product,
	"lastIndexOf":       product,
	"matches":           product,
	"replace":           product,
	"sets.contains":     product,
	"sets.equivalent":   product,
	"sets.intersects":   product,
}

// guard looks at the arguments of guarded functions before these are called.
type guard struct {
	functions map[string]*functions.Overload // as CEL dispatches them by the types of the arguments
}

func newGuard(env *cel.Env) (*guard, error) {
	g := &guard{functions: map[string]*functions.Overload{}}
	for name := range guarded {
		if name == operators.Equals || name == operators.NotEquals {
			continue // these are CEL's own for all types
		}
		declared := env.Functions()[name]
		bindings, err := declared.Bindings()
		if err != nil {
			return nil, fmt.Errorf("looking up the CEL function %s: %w", name, err)
		}
		for _, b := range bindings {
			if b.Operator == name {
				g.functions[name] = b
			}
		}
		if g.functions[name] == nil {
			return nil, fmt.Errorf("CEL has no function %s", name)
		}
	}
	return g, nil
}

// decorate puts a guarded call in the place of one that CEL has planned.
func (g *guard) decorate(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok {
		return i, nil
	}
	how, ok := guarded[call.Function()]
	if !ok {
		return i, nil
	}
	return &guardedCall{InterpretableCall: call, measure: how, bound: g.functions[call.Function()]}, nil
}

// guardedCall is a call that is refused when its arguments are too much for it.
type guardedCall struct {
	interpreter.InterpretableCall
	measure measure
	bound   *functions.Overload // nil for equality
}

// Eval makes it an interpreter.Interpretable.
func (c *guardedCall) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

// Exec makes it an interpreter.InterpretableV2.
func (c *guardedCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(c.Args()))
	for i, arg := range c.Args() {
		args[i] = arg.Exec(frame)
	}
	for _, arg := range args {
		if types.IsUnknownOrError(arg) {
			return arg
		}
	}
	if work(c.measure, args) > maxWork {
		return types.NewErrWithNodeID(c.ID(), "the arguments of %s are too large", c.Function())
	}
	return types.LabelErrNode(c.ID(), c.call(args))
}

func (c *guardedCall) call(args []ref.Val) ref.Val {
	switch c.Function() {
	case operators.Equals:
		return types.Equal(args[0], args[1])
	case operators.NotEquals:
		return types.Bool(types.Equal(args[0], args[1]) != types.True)
	}
	b := c.bound
	fits := b.OperandTrait == 0 || len(args) > 0 && args[0].Type().HasTrait(b.OperandTrait)
	switch {
	case !fits:
	case len(args) == 2 && b.Binary != nil:
		return b.Binary(args[0], args[1])
	case len(args) == 1 && b.Unary != nil:
		return b.Unary(args[0])
	case b.Function != nil:
		return b.Function(args...)
	}
	return types.NewErr("no such overload: %s", c.Function())
}

// work is what a call with these arguments has to do, or something above maxWork.
func work(how measure, args []ref.Val) int {
	total := 0
	if how == product {
		total = 1
	}
	for _, arg := range args {
		weight := maxWork + 1 - weigh(arg, maxWork+1)
		switch how {
		case sum:
			total += weight
		case product:
			total *= max(weight, 1)
		}
		if total > maxWork {
			return total
		}
	}
	return total
}

// weigh takes the weight of a value off what is left: bytes and elements, of all that is in it. It stops below zero.
func weigh(v ref.Val, left int) int {
	left--
	if left < 0 {
		return left
	}
	switch v := v.(type) {
	case types.String:
		return left - len(v)
	case types.Bytes:
		return left - len(v)
	case *types.Optional:
		if v.HasValue() {
			return weigh(v.GetValue(), left)
		}
	case traits.Mapper:
		for it := v.Iterator(); left >= 0 && it.HasNext() == types.True; {
			key := it.Next()
			left = weigh(v.Get(key), weigh(key, left))
		}
	case traits.Lister:
		for it := v.Iterator(); left >= 0 && it.HasNext() == types.True; {
			left = weigh(it.Next(), left)
		}
	}
	return left
}

// bytesPerCost is how many bytes are read or written for one unit of cost.
const bytesPerCost = 10

// costs are the costs of calls. CEL's own are by the types of the arguments, which it does not know of expressions that are
// only parsed: all calls would cost the same.
type costs struct{}

// CallCost makes costs an interpreter.ActualCostEstimator.
func (costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	total := size(result)
	for _, arg := range args {
		total += size(arg)
	}
	if function == operators.Add { // lists that are put together cost nothing until they are gone through
		if list, ok := result.(traits.Lister); ok {
			n, _ := list.Size().(types.Int)
			total += int(n)
		}
	}
	if how, ok := guarded[function]; ok {
		total += work(how, args)
	}
	cost := uint64(1 + total/bytesPerCost)
	return &cost
}

func size(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v)
	case types.Bytes:
		return len(v)
	}
	return 0
}
