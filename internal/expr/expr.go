package expr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
)

// The limits of one expression (faults.md A28). The work is counted in CEL's units, of which an access to a field costs one;
// the API server gives an admission policy a million, which takes it a tenth of a second. Expressions here run at every
// change of an object, and look at one object each.
const (
	// MaxLength is how long an expression may be, in bytes.
	MaxLength = 4096
	maxCost   = 100_000
	// maxTime ends what the count misjudges. It is far above what maxCost takes, so that a slow machine gets the same answers.
	maxTime = 2 * time.Second
	// checkEvery is after how many elements of a list the clock is looked at.
	checkEvery = 10
	// maxOptional is how many macros of optional values there may be. CEL writes what they are called on twice, so that each
	// one that is called on another doubles the expression, before anything is counted.
	maxOptional = 8
)

// What is refused before CEL sees it.
var (
	ErrEmpty        = errors.New("the expression is empty")
	ErrTooLong      = fmt.Errorf("the expression is longer than %d bytes", MaxLength)
	ErrManyOptional = fmt.Errorf("the expression holds more than %d of optMap and optFlatMap", maxOptional)
)

func check(text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return ErrEmpty
	case len(text) > MaxLength:
		return ErrTooLong
	case strings.Count(text, "optMap")+strings.Count(text, "optFlatMap") > maxOptional:
		return ErrManyOptional
	}
	return nil
}

// Expr is an expression that has been understood. It may be used by many at once.
type Expr struct {
	program cel.Program
}

// Parse returns an expression that may name any variable: which there are shows when it runs.
func Parse(text string) (*Expr, error) {
	env, err := base()
	if err != nil {
		return nil, err
	}
	if err := check(text); err != nil {
		return nil, err
	}
	tree, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, flat(issues)
	}
	return plan(env, tree)
}

// Compile returns an expression that may name the given variables only, which are objects, and that is true or false.
func Compile(text string, vars ...string) (*Expr, error) {
	env, tree, err := compile(text, vars)
	if err != nil {
		return nil, err
	}
	if tree.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("it must be true or false, and is of the type %s", tree.OutputType())
	}
	return plan(env, tree)
}

// CompileValue returns an expression that may name the given variables only, which are objects, and that is of any type.
func CompileValue(text string, vars ...string) (*Expr, error) {
	env, tree, err := compile(text, vars)
	if err != nil {
		return nil, err
	}
	return plan(env, tree)
}

func compile(text string, vars []string) (*cel.Env, *cel.Ast, error) {
	env, err := base()
	if err != nil {
		return nil, nil, err
	}
	if err := check(text); err != nil {
		return nil, nil, err
	}
	object := cel.MapType(cel.StringType, cel.DynType)
	declared := make([]cel.EnvOption, len(vars))
	for i, name := range vars {
		declared[i] = cel.Variable(name, object)
	}
	if env, err = env.Extend(declared...); err != nil {
		return nil, nil, fmt.Errorf("declaring %s: %w", strings.Join(vars, ", "), err)
	}
	tree, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, nil, flat(issues)
	}
	return env, tree, nil
}

// Value runs the expression. What it returns may be part of the value of a variable of another expression.
func (e *Expr) Value(vars map[string]any) (any, error) { return e.eval(vars) }

// True runs the expression. A value that it needs and that is not there is an error, as is work beyond the limits.
func (e *Expr) True(vars map[string]any) (bool, error) {
	value, err := e.eval(vars)
	if err != nil {
		return false, err
	}
	yes, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("it must be true or false, and is of the type %s", value.Type().TypeName())
	}
	return bool(yes), nil
}

func (e *Expr) eval(vars map[string]any) (ref.Val, error) {
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	value, _, err := e.program.ContextEval(ctx, vars)
	return value, err
}

// base is the environment that Flux gives expressions: what they may call.
var base = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		ext.Strings(),
		ext.Sets(),
		ext.Encoders(),
	)
})

// plan makes a tree runnable. CEL's optimizer is left off: it would compile constant patterns, and match them past guard.
func plan(env *cel.Env, tree *cel.Ast) (*Expr, error) {
	guard, err := newGuard(env)
	if err != nil {
		return nil, err
	}
	program, err := env.Program(tree,
		cel.InterruptCheckFrequency(checkEvery),
		cel.CostLimit(maxCost),
		cel.CostTracking(costs{}),
		cel.CustomDecoratorV2(guard.decorate),
	)
	if err != nil {
		return nil, err
	}
	return &Expr{program: program}, nil
}

// flat is what CEL says about a bad expression, in one line.
func flat(issues *cel.Issues) error {
	found := issues.Errors()
	lines := make([]string, len(found))
	for i, e := range found {
		lines[i] = fmt.Sprintf("%d:%d: %s", e.Location.Line(), e.Location.Column()+1, strings.Join(strings.Fields(e.Message), " "))
	}
	return errors.New(strings.Join(lines, "; "))
}
