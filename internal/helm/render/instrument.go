package render

import (
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// The functions that the inserted nodes call. A template that calls one by itself only makes itself look more expensive.
const (
	enterName = "cleatEnter"
	leaveName = "cleatLeave"
	againName = "cleatAgain"
	guardName = "cleatGuard"
	countName = "cleatCount"
)

// maxBlocks is how many blocks, and alternatives of blocks, one template may have: the parser, and whoever walks what it has
// parsed, needs stack for each that is within another, and Go cannot recover from a stack that overflows.
const maxBlocks = 20_000

// countBlocks returns how many actions of a text may open a block. It errs on the side of more.
func countBlocks(text string) int {
	n := 0
	for {
		_, after, ok := strings.Cut(text, "{{")
		if !ok {
			return n
		}
		text = after
		action := strings.TrimLeft(strings.TrimPrefix(text, "-"), " \t\r\n")
		for _, keyword := range []string{"if", "range", "with", "define", "block", "else"} {
			if strings.HasPrefix(action, keyword) {
				n++
				break
			}
		}
	}
}

// instrument inserts the nodes that count into all templates that have none yet.
func instrument(t *template.Template) {
	for _, each := range t.Templates() {
		if each.Tree == nil || each.Tree.Root == nil || entered(each.Tree.Root) {
			continue
		}
		root := each.Tree.Root
		weight := visit(root)
		nodes := make([]parse.Node, 0, len(root.Nodes)+2)
		nodes = append(nodes, call(root.Pos, enterName, weight))
		nodes = append(nodes, root.Nodes...)
		root.Nodes = append(nodes, call(root.Pos, leaveName, -1))
	}
}

// entered says whether the root of a template has been seen to. Templates share what they were cloned from.
func entered(root *parse.ListNode) bool {
	if len(root.Nodes) == 0 {
		return false
	}
	action, ok := root.Nodes[0].(*parse.ActionNode)
	if !ok || len(action.Pipe.Cmds) != 1 {
		return false
	}
	name, ok := action.Pipe.Cmds[0].Args[0].(*parse.IdentifierNode)
	return ok && name.Ident == enterName
}

// call returns an action that calls a function with a number, or with nothing for -1. It belongs to no tree, so that an error in
// it is located in the template that is run.
func call(at parse.Pos, name string, number int64) *parse.ActionNode {
	args := []parse.Node{parse.NewIdentifier(name).SetPos(at)}
	if number >= 0 {
		args = append(args, &parse.NumberNode{
			NodeType: parse.NodeNumber, Pos: at, IsInt: true, Int64: number, Text: strconv.FormatInt(number, 10),
		})
	}
	return &parse.ActionNode{NodeType: parse.NodeAction, Pos: at, Pipe: &parse.PipeNode{
		NodeType: parse.NodePipe, Pos: at, Cmds: []*parse.CommandNode{{NodeType: parse.NodeCommand, Pos: at, Args: args}},
	}}
}

// visit instruments what is in a list, and returns how many nodes running it once runs, those of loops once.
func visit(list *parse.ListNode) int64 {
	if list == nil {
		return 0
	}
	weight := int64(1)
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.ActionNode:
			weight += visitPipe(n.Pipe)
			if len(n.Pipe.Decl) == 0 && printsAnything(n.Pipe) {
				n.Pipe.Cmds = append(n.Pipe.Cmds, through(n.Pipe.Pos, guardName))
			}
		case *parse.IfNode:
			weight += visitPipe(n.Pipe) + visit(n.List) + visit(n.ElseList)
		case *parse.WithNode:
			weight += visitPipe(n.Pipe) + visit(n.List) + visit(n.ElseList)
		case *parse.RangeNode:
			weight += visitPipe(n.Pipe) + visit(n.ElseList)
			body := visit(n.List)
			nodes := make([]parse.Node, 0, len(n.List.Nodes)+1)
			n.List.Nodes = append(append(nodes, call(n.List.Pos, againName, body)), n.List.Nodes...)
		case *parse.TemplateNode:
			weight += 1 + visitPipe(n.Pipe)
		case *parse.TextNode:
			weight += 1 + int64(len(n.Text)>>8)
		default: // a comment, break or continue
			weight++
		}
	}
	return weight
}

// visitPipe instruments what is in a pipeline and returns how many nodes it has.
func visitPipe(pipe *parse.PipeNode) int64 {
	if pipe == nil {
		return 0
	}
	weight := int64(1)
	cmds := make([]*parse.CommandNode, 0, len(pipe.Cmds))
	for _, cmd := range pipe.Cmds {
		for i, arg := range cmd.Args {
			weight++
			cmd.Args[i] = visitArg(arg, i == 0, &weight)
		}
		cmds = append(cmds, cmd)
		if callsMethod(cmd.Args[0]) {
			cmds = append(cmds, through(cmd.Pos, countName))
		}
	}
	pipe.Cmds = cmds
	return weight
}

// visitArg returns the node to evaluate in place of an argument, or of what a command begins with.
func visitArg(arg parse.Node, first bool, weight *int64) parse.Node {
	switch n := arg.(type) {
	case *parse.PipeNode:
		*weight += visitPipe(n)
	case *parse.ChainNode:
		n.Node = visitArg(n.Node, false, weight)
	}
	if !first && callsMethod(arg) {
		return piped(guardReceiver(arg), countName)
	}
	return guardReceiver(arg)
}

// walker is the method that walks all that it is called on, as often as it is in there.
const walker = "YAML"

// callsMethod says whether the node may call a method, of what a template is given, that makes much out of little. Functions are
// guarded by themselves.
func callsMethod(node parse.Node) bool {
	return slices.ContainsFunc(pathOf(node), func(name string) bool {
		switch name {
		case "Get", "Glob", "Lines", "AsConfig", "AsSecrets", walker:
			return true
		}
		return false
	})
}

// pathOf is the names that are looked up one in the other.
func pathOf(node parse.Node) []string {
	switch n := node.(type) {
	case *parse.FieldNode:
		return n.Ident
	case *parse.VariableNode:
		return n.Ident[1:]
	case *parse.ChainNode:
		return n.Field
	}
	return nil
}

// guardReceiver returns a node that gives the same, and guards what walker is called on.
func guardReceiver(node parse.Node) parse.Node {
	path := pathOf(node)
	i := slices.Index(path, walker)
	if i < 0 {
		return node
	}
	at := node.Position()
	var receiver parse.Node
	switch n := node.(type) {
	case *parse.FieldNode:
		receiver = &parse.DotNode{NodeType: parse.NodeDot, Pos: at}
		if i > 0 {
			receiver = &parse.FieldNode{NodeType: parse.NodeField, Pos: at, Ident: path[:i]}
		}
	case *parse.VariableNode:
		receiver = &parse.VariableNode{NodeType: parse.NodeVariable, Pos: at, Ident: n.Ident[:i+1]}
	case *parse.ChainNode:
		receiver = n.Node
		if i > 0 {
			receiver = &parse.ChainNode{NodeType: parse.NodeChain, Pos: at, Node: n.Node, Field: path[:i]}
		}
	}
	return &parse.ChainNode{NodeType: parse.NodeChain, Pos: at, Node: piped(receiver, guardName), Field: path[i:]}
}

// piped is the node in parentheses, and what it gives is passed through a function.
func piped(node parse.Node, function string) *parse.PipeNode {
	at := node.Position()
	return &parse.PipeNode{NodeType: parse.NodePipe, Pos: at, Cmds: []*parse.CommandNode{
		{NodeType: parse.NodeCommand, Pos: at, Args: []parse.Node{node}}, through(at, function),
	}}
}

func through(at parse.Pos, function string) *parse.CommandNode {
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: at, Args: []parse.Node{parse.NewIdentifier(function).SetPos(at)}}
}

// printsAnything says whether what the pipeline prints may be a mapping or a list. Printing one that contains itself has no end.
func printsAnything(pipe *parse.PipeNode) bool {
	last := pipe.Cmds[len(pipe.Cmds)-1]
	switch n := last.Args[0].(type) {
	case *parse.StringNode, *parse.NumberNode, *parse.BoolNode, *parse.NilNode:
		return false
	case *parse.IdentifierNode:
		return !givesText(n.Ident)
	}
	return true
}

// givesText says that a function gives a text, of those that are used most.
func givesText(function string) bool {
	switch function {
	case "include", "tpl", "toYaml", "toJson", "quote", "squote", "indent", "nindent", "printf", "print", "replace", "trunc", "trim",
		"trimSuffix", "lower", "upper", "b64enc", "toString", "sha256sum", guardName:
		return true
	}
	return false
}
