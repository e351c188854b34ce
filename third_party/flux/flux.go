// Package flux stands in for github.com/influxdata/flux, which needs cgo and
// Rust. The storage engine names these types in its Flux endpoint, which
// Concord leaves disabled; nothing here is ever called at run time. See
// docs/adr/0002-flux-stub.md.
package flux

import (
	"errors"
	"io"
	"time"
)

// ErrUnavailable is what every operation of this stub answers.
var ErrUnavailable = errors.New("flux is not part of this build")

type (
	// CompilerType names a kind of Compiler.
	CompilerType string
	// DialectType names a kind of Dialect.
	DialectType string

	// Compiler turns a query into a program.
	Compiler interface{ CompilerType() CompilerType }
	// CreateCompiler returns a new Compiler to decode a request into.
	CreateCompiler func() Compiler
	// CompilerMappings finds compilers by their type.
	CompilerMappings map[CompilerType]CreateCompiler

	// Dialect is a format of results.
	Dialect interface {
		Encoder() MultiResultEncoder
		DialectType() DialectType
	}
	// CreateDialect returns a new Dialect to decode a request into.
	CreateDialect func() Dialect
	// DialectMappings finds dialects by their type.
	DialectMappings map[DialectType]CreateDialect

	// MultiResultEncoder writes results.
	MultiResultEncoder interface {
		Encode(w io.Writer, results ResultIterator) (int64, error)
	}
	// ResultIterator walks results.
	ResultIterator interface {
		More() bool
		Next() Result
		Release()
		Err() error
		Statistics() Statistics
	}
	// Result is one named result.
	Result interface {
		Name() string
		Tables() TableIterator
	}
	// TableIterator walks tables.
	TableIterator interface{ Do(func(Table) error) error }
	// Table is one table.
	Table interface {
		Key() GroupKey
		Cols() []ColMeta
		Do(func(ColReader) error) error
	}
	// GroupKey names the columns that all rows of a table share.
	GroupKey interface{ Cols() []ColMeta }
	// ColMeta is a column.
	ColMeta struct {
		Label string
		Type  ColType
	}
	// ColReader reads columns.
	ColReader interface {
		Len() int
		Bools(j int) Column[bool]
		Ints(j int) Column[int64]
		UInts(j int) Column[uint64]
		Floats(j int) Column[float64]
		Strings(j int) Column[string]
		Times(j int) Column[int64]
	}
	// Column is the values of a column.
	Column[T any] interface {
		IsValid(i int) bool
		Value(i int) T
	}

	// Query is a running query.
	Query interface {
		Done()
		Cancel()
		Err() error
		Statistics() Statistics
	}

	// Statistics are the figures of a finished query.
	Statistics struct {
		TotalDuration, CompileDuration, ExecuteDuration time.Duration
		MaxAllocated, TotalAllocated                    int64
	}
)

// ColType is the type of a column.
type ColType int

// The types of columns. The shell names them in what it prints of a table.
const (
	TInvalid ColType = iota
	TBool
	TInt
	TUInt
	TFloat
	TString
	TTime
)

// String is the name of the type; there are no tables, so nobody sees another.
func (ColType) String() string { return "invalid" }

type unavailable struct{}

func (unavailable) More() bool             { return false }
func (unavailable) Next() Result           { return nil }
func (unavailable) Release()               {}
func (unavailable) Err() error             { return ErrUnavailable }
func (unavailable) Statistics() Statistics { return Statistics{} }

// NewResultIteratorFromQuery returns an iterator that has nothing but an error.
func NewResultIteratorFromQuery(Query) ResultIterator { return unavailable{} }

// Unavailable returns an iterator that has nothing but an error.
func Unavailable() ResultIterator { return unavailable{} }
