package boltfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mettle-go/mettle/examples/orders/internal/boltfile"
)

// fill makes a file with enough history to have branch pages, a bucket that is
// still inline, deleted records and free pages. It returns what is in it.
func fill(t testing.TB, path string) map[string]string {
	t.Helper()
	f, err := boltfile.Open(path, "big", "small", "empty")
	require.NoError(t, err)
	defer f.Close()
	want := map[string]string{}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		require.NoError(t, f.Update(func(tx *boltfile.Tx) error {
			for range 40 {
				key := fmt.Sprintf("key-%04d", rng.IntN(400))
				if round > 3 && rng.IntN(3) == 0 {
					delete(want, "big/"+key)
					if err := tx.Delete("big", []byte(key)); err != nil {
						return err
					}
					continue
				}
				value := strings.Repeat(string(rune('a'+round)), rng.IntN(200))
				want["big/"+key] = value
				if err := tx.Put("big", []byte(key), []byte(value)); err != nil {
					return err
				}
			}
			want["small/last"] = fmt.Sprint(round)
			return tx.Put("small", []byte("last"), fmt.Append(nil, round))
		}))
	}
	return want
}

func read(t testing.TB, path string) map[string]string {
	t.Helper()
	f, err := boltfile.Open(path, "big", "small", "empty")
	require.NoError(t, err)
	defer f.Close()
	got := map[string]string{}
	require.NoError(t, f.View(func(tx *boltfile.Tx) error {
		for _, bucket := range []string{"big", "small", "empty"} {
			if err := tx.Each(bucket, func(key, value []byte) error {
				got[bucket+"/"+string(key)] = string(value)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}))
	return got
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.db")
	want := fill(t, path)
	require.NoError(t, boltfile.Check(path))
	require.Equal(t, want, read(t, path))
}

func TestNextCountsOnAcrossOpens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.db")
	for want := uint64(1); want <= 3; want++ {
		f, err := boltfile.Open(path, "b")
		require.NoError(t, err)
		require.NoError(t, f.Update(func(tx *boltfile.Tx) error {
			got, err := tx.Next("b")
			require.Equal(t, want, got)
			return err
		}))
		require.NoError(t, f.Close())
	}
}

// A byte flipped anywhere is either found, with the file left as it was, or it lies
// where nothing is kept, and then everything reads back as it was written.
//
// Spec: Q5
func TestEveryFlippedByte(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.db")
	want := fill(t, path)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)

	rng := rand.New(rand.NewPCG(3, 4))
	found := 0
	const tries = 200
	for range tries {
		at, mask := rng.IntN(len(whole)), byte(1+rng.IntN(255))
		torn := bytes.Clone(whole)
		torn[at] ^= mask
		require.NoError(t, os.WriteFile(path, torn, 0o600))
		err := boltfile.Check(path)
		var damage *boltfile.DamageError
		if errors.As(err, &damage) {
			found++
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, torn, now, "Check wrote to the file")
			continue
		}
		require.NoError(t, err, "byte %d ^ %#x", at, mask)
		require.Equal(t, want, read(t, path), "byte %d ^ %#x", at, mask)
	}
	require.Greater(t, found, tries/10, "the damage never hits anything")
	t.Logf("%d of %d flips hit live bytes", found, tries)
}

// Spec: Q5
func TestDamage(t *testing.T) {
	cut := func(n func(int) int) func([]byte) []byte {
		return func(b []byte) []byte { return b[:n(len(b))] }
	}
	tests := map[string]struct {
		damage func([]byte) []byte
		says   string
	}{
		"empty":        {cut(func(int) int { return 0 }), "empty"},
		"one byte":     {cut(func(int) int { return 1 }), "does not begin like"},
		"one page":     {cut(func(int) int { return 4096 }), "roots"},
		"half":         {cut(func(n int) int { return n / 2 }), "cut short"},
		"a byte short": {cut(func(n int) int { return n - 1 }), "cut short"},
		"text":         {func([]byte) []byte { return []byte(strings.Repeat("not a database\n", 5000)) }, "does not begin like"},
		"zeros":        {func(b []byte) []byte { return make([]byte, len(b)) }, "does not begin like"},
		"first root":   {func(b []byte) []byte { clear(b[:4096]); return b }, "one of its two roots"},
		"second root":  {func(b []byte) []byte { clear(b[4096:8192]); return b }, "one of its two roots"},
		"a lost page":  {func(b []byte) []byte { clear(b[5*4096 : 6*4096]); return b }, "page 5"},
		"a lost write": {func(b []byte) []byte { copy(b[4096:8192], b[:4096]); return b }, "roots"},
	}
	path := filepath.Join(t.TempDir(), "f.db")
	fill(t, path)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f.db")
			torn := tt.damage(bytes.Clone(whole))
			require.NoError(t, os.WriteFile(path, torn, 0o600))
			_, err := boltfile.Open(path, "big", "small", "empty")
			var damage *boltfile.DamageError
			require.ErrorAs(t, err, &damage)
			require.ErrorContains(t, err, tt.says)
			t.Log(err)
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, torn, now, "Open wrote to the file")
		})
	}
}

func TestOpenElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.db")
	f, err := boltfile.Open(path, "b")
	require.NoError(t, err)
	defer f.Close()
	_, err = boltfile.Open(path, "b")
	require.ErrorIs(t, err, boltfile.ErrLocked)
	require.ErrorIs(t, boltfile.Check(path), boltfile.ErrLocked)
}

func TestNotAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.db")
	require.NoError(t, os.Mkdir(path, 0o700))
	_, err := boltfile.Open(path, "b")
	require.ErrorContains(t, err, "not a regular file")
	_, err = boltfile.Open(filepath.Join(t.TempDir(), "no", "such", "f.db"), "b")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// FuzzCheck: no bytes whatever make the walk panic or hang.
func FuzzCheck(f *testing.F) {
	path := filepath.Join(f.TempDir(), "f.db")
	fill(f, path)
	whole, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(uint32(4096), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add(uint32(2*4096+8), []byte{1, 0, 255, 255, 255, 255, 255, 255})
	f.Add(uint32(3*4096), []byte{})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		torn := bytes.Clone(whole)
		copy(torn[int(at)%len(torn):], patch)
		path := filepath.Join(t.TempDir(), "f.db")
		require.NoError(t, os.WriteFile(path, torn, 0o600))
		_ = boltfile.Check(path)
	})
}
