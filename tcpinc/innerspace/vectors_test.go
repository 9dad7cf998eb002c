package innerspace

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const vectorFile = "testdata/vectors.json"

// hexBytes is octets that JSON has in hex, with `xx*length` for runs and `+` between.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	*h = nil
	for part := range strings.SplitSeq(string(text), "+") {
		digits, times, run := strings.Cut(part, "*")
		b, err := hex.DecodeString(digits)
		if err != nil {
			return err
		}
		if run {
			n, err := strconv.Atoi(times)
			if err != nil {
				return err
			}
			b = bytes.Repeat(b, n)
		}
		*h = append(*h, b...)
	}
	return nil
}

type synVector struct {
	Name                          string
	Prefix, Suffix, Payload, Data hexBytes
}

type streamVector struct {
	Name            string
	Octets, Payload hexBytes
	Found           []struct {
		Option   hexBytes
		Position uint64
	}
}

type controlVector struct {
	Name         string
	ExID         ExID
	Octets, Body hexBytes
	Number       uint32
	Text         string
	Yes          bool
}

type vectors struct {
	SYNs     []synVector
	Streams  []streamVector
	Controls []controlVector
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.SYNs) == 0 || len(v.Streams) == 0 || len(v.Controls) == 0 {
		t.Fatal("vectors are missing")
	}
	return v
}

// The committed vectors are what the second implementation gives, and cover the whole registry.
func TestVectorsAreCurrent(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("the vectors are checked by a Python program: install the package python3 (%v)", err)
	}
	cmd := exec.Command(python, "-B", filepath.Join("testdata", "gen", "vectors.py"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	want, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%v differs from what %v prints", vectorFile, cmd)
	}
	for id := range registry {
		if !slices.ContainsFunc(readVectors(t).Controls, func(v controlVector) bool { return v.ExID == id }) {
			t.Errorf("no vector for %v", id)
		}
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s\n got %x\nwant %x", what, got[:min(len(got), 400)], want[:min(len(want), 400)])
	}
}

func TestVectorSYNs(t *testing.T) {
	for _, v := range readVectors(t).SYNs {
		t.Run(v.Name, func(t *testing.T) {
			got, err := AppendSYN(nil, SYN{v.Prefix, v.Suffix, v.Payload})
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "data", got, v.Data)
			s, o, err := ParseSYN(v.Data)
			if o != Upgraded || err != nil {
				t.Fatal(o, err)
			}
			equal(t, "prefix", s.Prefix, v.Prefix)
			equal(t, "suffix", s.Suffix, v.Suffix)
			equal(t, "payload", s.Payload, v.Payload)
		})
	}
}

func TestVectorStreams(t *testing.T) {
	for _, v := range readVectors(t).Streams {
		t.Run(v.Name, func(t *testing.T) {
			for _, size := range []int{len(v.Octets) + 1, 1, 2, 3, 5, 251} {
				got := decodeAll(t, &Decoder{}, slices.Collect(slices.Chunk([]byte(v.Octets), size)))
				equal(t, "payload", got.payload, v.Payload)
				if len(got.options) != len(v.Found) {
					t.Fatalf("%d options, want %d", len(got.options), len(v.Found))
				}
				for i, f := range v.Found {
					equal(t, "option", got.options[i].Option, f.Option)
					if got.options[i].Position != f.Position {
						t.Errorf("option %d at %d, want %d", i, got.options[i].Position, f.Position)
					}
				}
			}
		})
	}
}

func TestVectorControls(t *testing.T) {
	for _, v := range readVectors(t).Controls {
		t.Run(v.Name, func(t *testing.T) {
			again, n, err := recodeControl(v.ExID, v.Octets)
			if n != len(v.Octets) || err != nil {
				t.Fatalf("took %d of %d, %v", n, len(v.Octets), err)
			}
			equal(t, "parsed and appended", again, v.Octets)
			equal(t, "appended", appendControl(t, v), v.Octets)
		})
	}
}

// appendControl makes the option of a vector of its fields.
func appendControl(t *testing.T, v controlVector) []byte {
	var b []byte
	var err error
	switch v.ExID {
	case ExIDInit:
		b, err = AppendInit(nil, v.Body)
	case ExIDProof:
		b, err = AppendProof(nil, v.Body)
	case ExIDRekey:
		b = AppendRekey(nil, v.Number)
	case ExIDMTU:
		b, err = AppendMTU(nil, uint16(v.Number))
	case ExIDClose:
		b = AppendClose(nil, CloseReason{CloseCode(v.Number), v.Text})
	case ExIDOuter:
		b, err = AppendOuter(nil, Option(v.Body))
	case ExIDCookie:
		b, err = AppendCookie(nil, v.Body)
	case ExIDEarlyData:
		b = AppendEarlyData(nil, EarlyData{v.Yes, uint16(v.Number)})
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recodeControl parses an option of the registry and appends what came of it.
func recodeControl(id ExID, b []byte) (again []byte, n int, err error) {
	switch id {
	case ExIDInit:
		return recode(b, ParseInit, AppendInit)
	case ExIDProof:
		return recode(b, ParseProof, AppendProof)
	case ExIDRekey:
		return recode(b, ParseRekey, always(AppendRekey))
	case ExIDMTU:
		return recode(b, ParseMTU, AppendMTU)
	case ExIDClose:
		return recode(b, ParseClose, always(AppendClose))
	case ExIDOuter:
		return recode(b, ParseOuter, AppendOuter)
	case ExIDCookie:
		return recode(b, ParseCookie, AppendCookie)
	case ExIDEarlyData:
		return recode(b, ParseEarlyData, always(AppendEarlyData))
	}
	panic("not in the registry: " + id.String())
}

func recode[V any](b []byte, parse func([]byte) (V, int, error), appendTo func([]byte, V) ([]byte, error)) ([]byte, int, error) {
	v, n, err := parse(b)
	if err != nil {
		return nil, n, err
	}
	again, err := appendTo(nil, v)
	return again, n, err
}

func always[V any](f func([]byte, V) []byte) func([]byte, V) ([]byte, error) {
	return func(b []byte, v V) ([]byte, error) { return f(b, v), nil }
}
