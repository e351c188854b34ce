// Package firststart does what the environment asks of a node that is in no cluster yet: the node joins one, and gives
// a cluster that is empty its first database and users. Images have no shell that could do this. The variables:
//
//	INFLUXDB_JOIN            meta nodes, host:port, separated by commas; the first one begins the cluster
//	INFLUXDB_LABELS          labels of a data node, such as az=north,rack=7
//	INFLUXDB_DB              the first database
//	INFLUXDB_DB_REPLICATION  its number of copies; the default of CREATE DATABASE when empty
//
// and for users, each with its password, as the images of InfluxDB have them. They need [http] auth-enabled, and
// INFLUXDB_ADMIN_USER:
//
//	INFLUXDB_ADMIN_USER   INFLUXDB_ADMIN_PASSWORD    an administrator
//	INFLUXDB_USER         INFLUXDB_USER_PASSWORD     may read and write INFLUXDB_DB
//	INFLUXDB_READ_USER    INFLUXDB_READ_USER_PASSWORD
//	INFLUXDB_WRITE_USER   INFLUXDB_WRITE_USER_PASSWORD
//
// A node that is in a cluster when it starts ignores them all, unless it crashed in the middle.
package firststart
