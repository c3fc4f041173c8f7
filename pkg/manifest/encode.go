package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Encode writes the document: indented JSON with a newline at its end. The same
// machine always makes the same bytes.
func (m *Manifest) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // command lines hold '&' and '<' as themselves
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	return b.Bytes(), nil
}

// Decode reads one document strictly: an unknown version, an unknown field,
// anything behind the document and every problem that Validate finds are errors.
func Decode(data []byte) (*Manifest, error) {
	// The version comes first: what the rest means depends on it, and a field
	// unknown to this version is better explained by a newer one.
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("the manifest is not valid JSON: %w", located(data, err))
	}
	switch {
	case head.Version == nil:
		return nil, errors.New("the manifest has no version: is it a Whiterun manifest?")
	case *head.Version != Version:
		return nil, fmt.Errorf("the manifest has version %d, this Whiterun reads version %d", *head.Version, Version)
	}

	m := new(Manifest)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("the manifest does not fit its schema: %w", located(data, err))
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("the manifest is followed by other data")
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// located adds the line to those errors of encoding/json that know where they
// happened.
func located(data []byte, err error) error {
	var offset int64
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typ):
		offset = typ.Offset
	default:
		return err
	}
	offset = min(max(offset, 0), int64(len(data)))
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}
