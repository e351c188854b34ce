// Package csv stands in for the Flux CSV dialect; see the parent package.
package csv

import (
	"io"
	"net/http"

	"github.com/influxdata/flux"
)

// DialectType names the CSV dialect.
const DialectType = "csv"

// AddDialectMappings would register the dialect.
func AddDialectMappings(flux.DialectMappings) error { return nil }

// ResultEncoderConfig holds the options of an encoder.
type ResultEncoderConfig struct {
	Annotations []string
	NoHeader    bool
	Delimiter   rune
}

// DefaultEncoderConfig returns the zero options.
func DefaultEncoderConfig() ResultEncoderConfig { return ResultEncoderConfig{} }

// Dialect is the CSV dialect.
type Dialect struct{ ResultEncoderConfig }

// DefaultDialect returns the dialect with the default options.
func DefaultDialect() Dialect { return Dialect{DefaultEncoderConfig()} }

// Encoder returns an encoder that always fails.
func (d Dialect) Encoder() flux.MultiResultEncoder { return &ResultEncoder{} }

// DialectType names the dialect.
func (d Dialect) DialectType() flux.DialectType { return DialectType }

// SetHeaders sets the content type.
func (d Dialect) SetHeaders(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/csv") }

// ResultEncoder fails to write results.
type ResultEncoder struct{}

// NewResultEncoder returns an encoder that always fails.
func NewResultEncoder(ResultEncoderConfig) *ResultEncoder { return &ResultEncoder{} }

// Encode fails.
func (*ResultEncoder) Encode(io.Writer, flux.ResultIterator) (int64, error) {
	return 0, flux.ErrUnavailable
}

// EncodeError fails.
func (*ResultEncoder) EncodeError(io.Writer, error) error { return flux.ErrUnavailable }

// ResultDecoderConfig holds the options of a decoder.
type ResultDecoderConfig struct{}

// MultiResultDecoder fails to read results.
type MultiResultDecoder struct{}

// NewMultiResultDecoder returns a decoder that always fails.
func NewMultiResultDecoder(ResultDecoderConfig) *MultiResultDecoder { return &MultiResultDecoder{} }

// Decode fails.
func (*MultiResultDecoder) Decode(r io.ReadCloser) (flux.ResultIterator, error) {
	r.Close()
	return nil, flux.ErrUnavailable
}
