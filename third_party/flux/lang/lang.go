// Package lang stands in for the Flux compilers; see the parent package.
package lang

import (
	"encoding/json"
	"time"

	"github.com/influxdata/flux"
)

// Types of the two compilers that requests can name.
const (
	FluxCompilerType = "flux"
	ASTCompilerType  = "ast"
)

// AddCompilerMappings would register the compilers.
func AddCompilerMappings(flux.CompilerMappings) error { return nil }

// FluxCompiler holds a query as text.
type FluxCompiler struct {
	Now    time.Time
	Extern json.RawMessage
	Query  string
}

// CompilerType names the compiler.
func (FluxCompiler) CompilerType() flux.CompilerType { return FluxCompilerType }

// ASTCompiler holds a query as a syntax tree.
type ASTCompiler struct {
	Extern json.RawMessage
	AST    json.RawMessage
	Now    time.Time
}

// CompilerType names the compiler.
func (ASTCompiler) CompilerType() flux.CompilerType { return ASTCompilerType }
