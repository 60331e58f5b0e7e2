BEGIN TRANSACTION;
CREATE TABLE model_alias_moves (
	id INTEGER NOT NULL, 
	model VARCHAR(255) NOT NULL, 
	alias VARCHAR(255) NOT NULL, 
	version INTEGER NOT NULL, 
	previous INTEGER, 
	at BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE model_aliases (
	model VARCHAR(255) NOT NULL, 
	alias VARCHAR(255) NOT NULL, 
	version INTEGER NOT NULL, 
	PRIMARY KEY (model, alias)
);
CREATE TABLE model_versions (
	model VARCHAR(255) NOT NULL, 
	version INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	registered BIGINT NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (model, version)
);
CREATE TABLE registry_builds (
	name VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	build INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	PRIMARY KEY (name, version, build)
);
CREATE TABLE registry_definitions (
	thing VARCHAR(32) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	body TEXT NOT NULL, 
	version INTEGER, 
	PRIMARY KEY (thing, name)
);
INSERT INTO "registry_definitions" VALUES('entity','user','{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}}',NULL);
INSERT INTO "registry_definitions" VALUES('table','accounts','{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}}',NULL);
INSERT INTO "registry_definitions" VALUES('group','tier','{"$kind":"BatchFeatureGroup","name":"tier","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"sources":[{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}}],"query":"select user_id, changed, tier from accounts","zone":"UTC","time":"changed","keys":{"user_id":"user_id"},"$resolved":{"tier":"string"}}',1);
INSERT INTO "registry_definitions" VALUES('group','changes','{"$kind":"BatchFeatureGroup","name":"changes","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"zone":"UTC","source":{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}},"features":[{"$kind":"Count","over":["90d"],"delay":0}],"keys":{"user_id":"user_id"}}',1);
INSERT INTO "registry_definitions" VALUES('view','people','{"$kind":"FeatureView","name":"people","request":{},"features":[{"$kind":"FeatureRef","group":{"$kind":"BatchFeatureGroup","name":"tier","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"sources":[{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}}],"query":"select user_id, changed, tier from accounts","zone":"UTC","time":"changed","keys":{"user_id":"user_id"},"$resolved":{"tier":"string"}},"feature":null},{"$kind":"FeatureRef","group":{"$kind":"BatchFeatureGroup","name":"changes","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"zone":"UTC","source":{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}},"features":[{"$kind":"Count","over":["90d"],"delay":0}],"keys":{"user_id":"user_id"}},"feature":null}]}',NULL);
CREATE TABLE registry_facts (
	name VARCHAR(32) NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "registry_facts" VALUES('revision',3);
INSERT INTO "registry_facts" VALUES('format',2);
CREATE TABLE registry_group_versions (
	name VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	body TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	is_default BOOLEAN NOT NULL, 
	shards INTEGER NOT NULL, 
	PRIMARY KEY (name, version)
);
INSERT INTO "registry_group_versions" VALUES('tier',1,'7cc2b8e94ff396dc9db64babb71b36f2d52485743e10af3f1c429387fdd92f43','{"$kind":"BatchFeatureGroup","name":"tier","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"sources":[{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}}],"query":"select user_id, changed, tier from accounts","zone":"UTC","time":"changed","keys":{"user_id":"user_id"},"$resolved":{"tier":"string"}}','live',1,4);
INSERT INTO "registry_group_versions" VALUES('changes',1,'46d9d09e7186361620964d11ed57a62b351d5cff119e41fbf60c1b5952f25e5f','{"$kind":"BatchFeatureGroup","name":"changes","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"zone":"UTC","source":{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}},"features":[{"$kind":"Count","over":["90d"],"delay":0}],"keys":{"user_id":"user_id"}}','live',1,4);
CREATE TABLE registry_operations (
	kind VARCHAR(16) NOT NULL, 
	subject VARCHAR(128) NOT NULL, 
	step TEXT NOT NULL, 
	PRIMARY KEY (kind, subject)
);
INSERT INTO "registry_operations" VALUES('apply','definitions','make the topics of streams, and start new group versions');
CREATE TABLE registry_pins (
	model_version VARCHAR(128) NOT NULL, 
	group_name VARCHAR(64) NOT NULL, 
	group_version INTEGER NOT NULL, 
	PRIMARY KEY (model_version, group_name, group_version)
);
CREATE TABLE registry_view_revisions (
	name VARCHAR(64) NOT NULL, 
	revision VARCHAR(16) NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (name, revision)
);
INSERT INTO "registry_view_revisions" VALUES('people','088066dd048c4fcb','{"$kind":"FeatureView","name":"people","request":{},"features":[{"$kind":"FeatureRef","group":{"$kind":"BatchFeatureGroup","name":"tier","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"sources":[{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}}],"query":"select user_id, changed, tier from accounts","zone":"UTC","time":"changed","keys":{"user_id":"user_id"},"$resolved":{"tier":"string"}},"feature":null},{"$kind":"FeatureRef","group":{"$kind":"BatchFeatureGroup","name":"changes","entity":{"$kind":"Entity","name":"user","keys":{"user_id":"int64"}},"every":86400000000,"zone":"UTC","source":{"$kind":"Table","name":"accounts","path":"accounts.parquet","time":"changed","delay":3600000000,"schema":{"user_id":"int64","tier":"string","changed":"timestamp"}},"features":[{"$kind":"Count","over":["90d"],"delay":0}],"keys":{"user_id":"user_id"}},"feature":null}]}');
COMMIT;
