// Package boltfile keeps small records in a bbolt file and refuses a file that is
// not whole.
//
// bbolt gives durability: a commit is on the disk when Update returns. It does not
// give detection. Of its pages only the two meta pages carry a checksum; a byte
// flipped elsewhere makes it panic, fault, or return wrong data, and a damaged meta
// page makes it fall back, without a word, to the state before the last commit. So
// every record here is sealed with a checksum over its bucket, key and value, each
// bucket carries a sealed count and sum of its records, and [Check] reads the whole
// file by itself before bbolt is let near it.
package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrLocked is what Open and Check return when another process has the file open.
var ErrLocked = errors.New("in use by another process")

const (
	// lockWait is how long Open waits for another process that is about to end.
	lockWait = 500 * time.Millisecond

	// batchDelay is how long a commit waits for company. One fsync then serves all
	// the goroutines that write at the same time.
	batchDelay = 2 * time.Millisecond

	// totalsBucket holds, per bucket, how many records there are and their sum.
	totalsBucket = "totals"
)

// File is an open file of records. It may be used from many goroutines at once.
type File struct{ db *bbolt.DB }

// Open opens the file at path, which is made when it does not exist and must have
// been made with the same buckets otherwise.
//
// Open changes nothing in a file that is damaged (*[DamageError]), in use
// ([ErrLocked]), or unreadable (an error of package os).
func Open(path string, buckets ...string) (*File, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path, buckets); err != nil {
			return nil, err
		}
	}
	if err := Check(path); err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return nil, openError(path, err)
	}
	db.MaxBatchDelay = batchDelay
	f := &File{db}
	if err := f.hasBuckets(buckets); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return f, nil
}

// Check reports whether the file at path is whole, without changing it: nil, also
// when there is no such file, a *[DamageError], [ErrLocked], or an error of package os.
func Check(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	// Opened for reading, bbolt looks at the meta pages only, and holds the lock
	// that keeps a writer away while the file is read.
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout), errors.Is(err, fs.ErrPermission):
		return openError(path, err)
	case err == nil:
		defer db.Close()
	}
	// Whatever else bbolt has against the file, the walk says it better.
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return walk(path, data)
}

func openError(path string, err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%s is %w", path, ErrLocked)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// create makes the file under another name and links it into place when it is
// complete, so that a file found at path has always been whole: an empty one is one
// that somebody has truncated.
func create(path string, buckets []string) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(tmp.Name(), 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return openError(path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append([]string{totalsBucket}, buckets...) {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	// Unlike a rename, a link does not replace what another process has made
	// meanwhile. Some file systems have no links; there we rename.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		if err := os.Rename(tmp.Name(), path); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable. Windows does that by itself, and
// fails when it is asked to.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *File) hasBuckets(buckets []string) error {
	return f.db.View(func(tx *bbolt.Tx) error {
		for _, name := range append([]string{totalsBucket}, buckets...) {
			if tx.Bucket([]byte(name)) == nil {
				return &DamageError{Path: f.db.Path(), Problems: []string{"bucket " + name + " is missing: not a file of this program"}}
			}
		}
		return nil
	})
}

// Close waits for transactions to end and releases the file.
func (f *File) Close() error { return f.db.Close() }

// Update runs fn in a transaction. When Update returns nil, what fn wrote is on the
// disk. Concurrent calls share a commit, and fn may run more than once: it must set
// its results anew each time.
func (f *File) Update(fn func(*Tx) error) error {
	return f.db.Batch(func(tx *bbolt.Tx) error {
		t := &Tx{tx: tx, totals: map[string]*totals{}}
		if err := fn(t); err != nil {
			return err
		}
		return t.saveTotals()
	})
}

// View runs fn in a transaction that sees one state of the file.
func (f *File) View(fn func(*Tx) error) error {
	return f.db.View(func(tx *bbolt.Tx) error { return fn(&Tx{tx: tx}) })
}

// Tx is a transaction. It is valid until the function it was handed to returns.
type Tx struct {
	tx     *bbolt.Tx
	totals map[string]*totals // of the buckets written to
}

// Get returns a copy of the value under key, or nil when there is none.
func (t *Tx) Get(bucket string, key []byte) ([]byte, error) {
	sealed := t.tx.Bucket([]byte(bucket)).Get(key)
	if sealed == nil {
		return nil, nil
	}
	value, ok := unseal(bucket, key, sealed)
	if !ok {
		return nil, t.damaged(bucket, key)
	}
	return append([]byte{}, value...), nil
}

// Each calls fn for each record in the order of the keys. The slices are valid
// during the call only, and fn must not write.
func (t *Tx) Each(bucket string, fn func(key, value []byte) error) error {
	return t.tx.Bucket([]byte(bucket)).ForEach(func(key, sealed []byte) error {
		value, ok := unseal(bucket, key, sealed)
		if !ok {
			return t.damaged(bucket, key)
		}
		return fn(key, value)
	})
}

// Put stores value under key.
func (t *Tx) Put(bucket string, key, value []byte) error {
	if err := t.forget(bucket, key); err != nil {
		return err
	}
	sealed := seal(bucket, key, value)
	t.totals[bucket].add(sealed)
	return t.tx.Bucket([]byte(bucket)).Put(key, sealed)
}

// Delete removes what is stored under key, if anything.
func (t *Tx) Delete(bucket string, key []byte) error {
	if err := t.forget(bucket, key); err != nil {
		return err
	}
	return t.tx.Bucket([]byte(bucket)).Delete(key)
}

// Next returns the bucket's next number, counting from 1. bbolt has a counter of its
// own for this, which no checksum covers.
func (t *Tx) Next(bucket string) (uint64, error) {
	total, err := t.total(bucket)
	if err != nil {
		return 0, err
	}
	total.last++
	return total.last, nil
}

// forget takes the record under key, if there is one, out of the totals.
func (t *Tx) forget(bucket string, key []byte) error {
	total, err := t.total(bucket)
	if err != nil {
		return err
	}
	if old := t.tx.Bucket([]byte(bucket)).Get(key); old != nil {
		if _, ok := unseal(bucket, key, old); !ok {
			return t.damaged(bucket, key)
		}
		total.remove(old)
	}
	return nil
}

func (t *Tx) total(bucket string) (*totals, error) {
	if total := t.totals[bucket]; total != nil {
		return total, nil
	}
	value, err := t.Get(totalsBucket, []byte(bucket))
	if err != nil {
		return nil, err
	}
	total := new(totals)
	if value != nil && !total.decode(value) {
		return nil, t.damaged(totalsBucket, []byte(bucket))
	}
	t.totals[bucket] = total
	return total, nil
}

func (t *Tx) saveTotals() error {
	for bucket, total := range t.totals {
		key := []byte(bucket)
		sealed := seal(totalsBucket, key, total.encode())
		if err := t.tx.Bucket([]byte(totalsBucket)).Put(key, sealed); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) damaged(bucket string, key []byte) error {
	problem := fmt.Sprintf("record %q in bucket %s fails its checksum", key, bucket)
	return &DamageError{Path: t.tx.DB().Path(), Problems: []string{problem}}
}

// totals says what must be in a bucket. The sum does not depend on the order of the
// records, so a write changes it without reading the others.
type totals struct{ count, sum, last uint64 }

func (t *totals) add(sealed []byte)    { t.count++; t.sum += checksum(sealed) }
func (t *totals) remove(sealed []byte) { t.count--; t.sum -= checksum(sealed) }

func (t *totals) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, t.count)
	b = binary.BigEndian.AppendUint64(b, t.sum)
	return binary.BigEndian.AppendUint64(b, t.last)
}

func (t *totals) decode(b []byte) bool {
	if len(b) != 24 {
		return false
	}
	t.count = binary.BigEndian.Uint64(b)
	t.sum = binary.BigEndian.Uint64(b[8:])
	t.last = binary.BigEndian.Uint64(b[16:])
	return true
}

const sealSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal prefixes value with a checksum that holds for this bucket and key only.
func seal(bucket string, key, value []byte) []byte {
	sealed := make([]byte, sealSize, sealSize+len(value))
	binary.BigEndian.PutUint32(sealed, sumOf(bucket, key, value))
	return append(sealed, value...)
}

func unseal(bucket string, key, sealed []byte) (value []byte, ok bool) {
	if len(sealed) < sealSize {
		return nil, false
	}
	value = sealed[sealSize:]
	return value, binary.BigEndian.Uint32(sealed) == sumOf(bucket, key, value)
}

func checksum(sealed []byte) uint64 { return uint64(binary.BigEndian.Uint32(sealed)) }

func sumOf(bucket string, key, value []byte) uint32 {
	// The lengths keep "ab"+"c" apart from "a"+"bc".
	var lengths [8]byte
	binary.BigEndian.PutUint32(lengths[:], uint32(len(bucket)))
	binary.BigEndian.PutUint32(lengths[4:], uint32(len(key)))
	sum := crc32.Checksum(lengths[:], castagnoli)
	sum = crc32.Update(sum, castagnoli, []byte(bucket))
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, value)
}
