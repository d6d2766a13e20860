package access

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A sealed secret, in records and snapshots:
//
//	off size
//	 0   4   which master key: the first bytes of its SHA-256
//	 4  12   nonce
//	16   n   AES-256-GCM of the secret, and its tag
//
// Additional data is "gantry user " and the user's name, so a sealed secret cannot
// be moved to another user.
const (
	sealedKeyID = 4
	sealedNonce = 12
	sealedHead  = sealedKeyID + sealedNonce
)

// MasterKey seals the users' secrets. It is never where they are: neither in the log
// nor in the data directory. It may be several keys: the first seals, all open, so that
// one can take the place of another.
type MasterKey struct{ keys []masterKey }

type masterKey struct {
	id   [sealedKeyID]byte
	aead cipher.AEAD
}

// maxMasterKeys bounds the keys of a file: a new one, the one of before, and some nobody
// took out.
const maxMasterKeys = 8

// masterKeyLen is that of AES-256, in bytes.
const masterKeyLen = 32

// NewMasterKey returns the text of a random key: 64 hexadecimal digits.
func NewMasterKey() string {
	var b [masterKeyLen]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ParseMasterKey reads the text of one key, or of several, each on a line. Its error does
// not repeat it.
func ParseMasterKey(text string) (*MasterKey, error) {
	k := &MasterKey{}
	lines := strings.Fields(text)
	if len(lines) == 0 || len(lines) > maxMasterKeys {
		return nil, fmt.Errorf("access: there are %d master keys, want 1 to %d", len(lines), maxMasterKeys)
	}
	for _, line := range lines {
		raw, err := hex.DecodeString(line)
		if err != nil || len(raw) != masterKeyLen {
			return nil, fmt.Errorf("access: a master key is %d hexadecimal digits", 2*masterKeyLen)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		one := masterKey{}
		if one.aead, err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		sum := sha256.Sum256(raw)
		copy(one.id[:], sum[:])
		k.keys = append(k.keys, one)
	}
	return k, nil
}

// Sealed reports whether it was the key that seals now which sealed a secret.
func (k *MasterKey) Sealed(sealed []byte) bool {
	return len(sealed) >= sealedHead && [sealedKeyID]byte(sealed) == k.keys[0].id
}

// Seal encrypts a user's secret.
func (k *MasterKey) Seal(user, secret string) []byte {
	first := &k.keys[0]
	sealed := make([]byte, sealedHead, sealedHead+len(secret)+first.aead.Overhead())
	copy(sealed, first.id[:])
	rand.Read(sealed[sealedKeyID:])
	return first.aead.Seal(sealed, sealed[sealedKeyID:sealedHead], []byte(secret), additional(user))
}

// ErrOtherKey is a secret that was sealed under a master key that is not there.
var ErrOtherKey = errors.New("access: sealed under another master key")

// Open decrypts what Seal made.
func (k *MasterKey) Open(user string, sealed []byte) (string, error) {
	if len(sealed) < sealedHead {
		return "", errors.New("access: a sealed secret is cut short")
	}
	i := slices.IndexFunc(k.keys, func(one masterKey) bool { return one.id == [sealedKeyID]byte(sealed) })
	if i < 0 {
		return "", ErrOtherKey
	}
	secret, err := k.keys[i].aead.Open(nil, sealed[sealedKeyID:sealedHead], sealed[sealedHead:], additional(user))
	if err != nil {
		return "", errors.New("access: a sealed secret was altered")
	}
	return string(secret), nil
}

func additional(user string) []byte { return []byte("gantry user " + user) }
